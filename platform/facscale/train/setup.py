"""What a worker sets up before the training loop: streams of the data, the method, its engines, the online probe."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from facscale.data import Dataset, augment
from facscale.data.augment import Augmenter
from facscale.data.folds import partition
from facscale.data.labels import load_labels
from facscale.data.stream import Stream
from facscale.data.views import Batch, View
from facscale.evaluate.protocol import make_split
from facscale.inference import export
from facscale.methods import Method, find_method
from facscale.nn import MomentumEncoder
from facscale.nn.batchnorm import synchronise_batchnorm
from facscale.spec import Job, SpecError
from facscale.train.engine import Engine
from facscale.train.online_probe import OnlineProbe
from facscale.train.schedule import Schedule
from facscale.train.state import TrainState
from facscale.train.task import TrainingTask


def open_streams(
    task: TrainingTask,
    *,
    rank: int,
    world: int,
    pin: bool,
    part: str = "train",
    views: Mapping[str, View] | None = None,
    is_short: bool = False,
) -> dict[str, Stream]:
    """One stream for each source that the method's views name; the first view's source sets the epoch.

    `part` of the people: "train", "validation" or "test" (of the labelled ones, a fold tests others). `views`: others
    than those of a training sample. `is_short`: a few batches are read of them.
    """
    views = views or find_method(task.job.method.name).train_views(task.config)
    data, streams = task.job.data, dict[str, Stream]()
    for source in dict.fromkeys(view.source for view in views.values()):
        datasets = [Dataset(url) for url in task.job.data.urls(source)]
        streams[source] = Stream(
            datasets,
            {name: view for name, view in views.items() if view.source == source},
            spec=data,
            batch_size=task.job.train.batch_size // task.job.train.accumulate,
            seed=task.job.seed,
            rank=rank,
            world=world,
            subjects=(
                select_labelled_people(task, datasets, part=part)
                if source == "labelled"
                else select_unlabelled_people(task.job, datasets, part=part)
            ),
            pin=pin,
            is_short=is_short,
        )
    return streams


def select_unlabelled_people(
    job: Job, datasets: Sequence[Dataset], *, part: str
) -> Mapping[str, Collection[str]] | None:
    """The unlabelled identities of one part, by data set URL; None: everybody. An identity in several sets is one person."""
    if not (job.data.validation or job.data.test):
        return None
    everybody = {person for dataset in datasets for person in dataset.runs.identities}
    people = partition(everybody, validation=job.data.validation, test=job.data.test, seed=job.seed)[part]
    return {dataset.url: people for dataset in datasets}


def select_labelled_people(
    task: TrainingTask, datasets: Sequence[Dataset], *, part: str
) -> Mapping[str, Collection[str]] | None:
    """Of the people that the task may learn from, those of one part: trained on, or set aside for validation."""
    if not task.job.data.validation:
        return task.subjects
    return {
        dataset.url: partition(
            task.subjects[dataset.url] if task.subjects else dataset.runs.identities,
            validation=task.job.data.validation, test=0, seed=task.job.seed,
        )[part]
        for dataset in datasets
    }  # fmt: skip


def build_state(
    task: TrainingTask,
    streams: Mapping[str, Stream],
    *,
    rank: int,
    world: int,
    device: torch.device,
    restored: Mapping[str, Any] | None = None,
) -> TrainState:
    """Build the method and its engines, and continue from the checkpoint `restored` (`checkpoint.read`) if there is one."""
    restored = restored or {}
    torch.manual_seed(task.job.seed)
    method = make_method(task).to(device)
    if task.job.train.sync_batchnorm:
        synchronise_batchnorm(method)
    if restored:
        method.load_state_dict(restored["method"])
    engines = [Engine(method, root, job=task.job, world=world) for root in method.trainable_roots()]
    for engine in engines:
        engine.load_state(restored.get("optimizers", {}).get(engine.root.name, {}))
    if task.job.train.compile:
        compile_modules(method)
    augment = Augmenter(size=task.job.data.image_size)
    return TrainState(
        job=task.job,
        schedule=Schedule(task.job, next(iter(streams.values())).samples_per_epoch),
        method=method,
        engines=engines,
        prepare=lambda batch: apply_memory_format(augment(batch.to(device)), task.job),
        device=device,
        rank=rank,
        step=int(restored.get("step", 0)),
        saved_step=int(restored.get("step", 0)),
    )


def compile_modules(method: Method, **options: Any) -> None:
    """Compile what a method trains, and its momentum encoders, in place; `options` of torch.compile.

    A module is compiled where it is called: one whose stages are called one by one (RTATL, AUNet) stays as it is.
    """
    for name in (name for root in method.trainable_roots() for name in root.modules):
        method.get_submodule(name).compile(**options)
    for module in method.modules():
        if isinstance(module, MomentumEncoder):
            module.module.compile(**options)


def make_method(task: TrainingTask) -> Method:
    """Build the method from the current random state, on the inputs that the spec gives it."""
    inputs = {name: export.load_export(exported) for name, exported in task.inputs.items()}
    method = export.build_method_for_job(task.job, task.config, task.facts, inputs)
    if task.start is not None:
        start_from(method, export.load_export(task.start))
    return method


def start_from(method: Method, start: Method) -> None:
    """Copy every weight of `start` that `method` trains and that has the same name and shape there.

    Momentum encoders become copies of what they follow, whatever `start` has. Raises SpecError where there is no such
    weight.
    """
    own, given = method.state_dict(), start.state_dict()
    trained = {
        f"{path}.{name}"
        for root in method.trainable_roots()
        for part in root.modules
        for path, module in method.get_submodule(part).named_modules(prefix=part)
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        for name in (*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False)))
    }
    fits = {name: given[name] for name in trained & own.keys() & given.keys() if own[name].shape == given[name].shape}
    if not fits:
        raise SpecError(f"start: {start.recipe.method} has not one weight that {method.recipe.method} could begin with")
    method.load_state_dict(fits, strict=False)
    for module in method.modules():
        if isinstance(module, MomentumEncoder):
            module.reset()


def apply_memory_format(batch: Batch, job: Job) -> Batch:
    """Put the channels last in memory, if the spec says so: convolutions follow the layout of their input.

    The weights keep their layout, for DeepSpeed cannot send or flatten them otherwise.
    """
    if job.train.channels_last:
        for faces in batch.values():
            images = faces.images.flatten(0, 2).contiguous(memory_format=torch.channels_last)
            faces.images = images.unflatten(0, faces.images.shape[:3])
    return batch


def read_validation_batches(task: TrainingTask, *, rank: int, world: int) -> list[Batch]:
    """This worker's share of the first batches of the people of `data.validation`; without any, of the others."""
    if not task.job.train.validate_every:
        return []
    part = "validation" if task.job.data.validation else "train"
    streams = open_streams(task, rank=rank, world=world, pin=False, part=part, is_short=True)
    return take_validation_batches(task, streams)


def read_labelled_validation_batches(task: TrainingTask, *, rank: int, world: int) -> list[Batch]:
    """As `read_validation_batches`, with labels and without augmentation; empty for a method that learns without labels."""
    method, job = find_method(task.job.method.name), task.job
    if not (job.train.validate_every and job.data.validation and method.learns_from_labels(task.config)):
        return []
    views = {name: view.with_columns("au") for name, view in method.eval_views(task.config).items()}
    data = job.data.model_copy(update={"augment": augment.eval_config(job.data.augment)})
    still = replace(task, job=job.model_copy(update={"data": data}))
    streams = open_streams(still, rank=rank, world=world, pin=False, part="validation", views=views, is_short=True)
    return take_validation_batches(task, streams)


def take_validation_batches(task: TrainingTask, streams: dict[str, Stream]) -> list[Batch]:
    """The first `train.validation_batches` batches."""
    batches = merge_streams(streams, 0)
    try:
        return list(itertools.islice(batches, task.job.train.validation_batches))
    finally:
        batches.close()


def make_online_probe(task: TrainingTask, state: TrainState) -> OnlineProbe | None:
    """The online probe of the spec, on rank 0 only: on the first labelled data set, or on faces without labels."""
    if state.rank or not task.job.train.probe_every or not state.method.has_image_encoder:
        return None
    url = (*task.job.data.urls("labelled"), *task.job.data.urls("unlabelled"))[0]
    return OnlineProbe(url, people=select_probe_people(task, Dataset(url)), job=task.job, device=state.device)


def select_probe_people(task: TrainingTask, dataset: Dataset) -> Collection[str] | None:
    """People whom the online probe may use: nobody who is tested in the first fold, for a sweep chooses by the probe."""
    if not dataset.manifest.au:
        return None
    if task.subjects is None:
        identity, au = load_labels(dataset)
        return make_split(dataset, identity=identity, au=au, evaluate=task.job.evaluate)[0].train
    part = "validation" if task.job.data.validation else "train"
    people = select_labelled_people(task, [dataset], part=part)
    return people[dataset.url] if people else None


def merge_streams(streams: dict[str, Stream], start: int) -> Generator[Batch]:
    """Join the batches of all sources into batches with all views, from sample number `start` on."""
    for batches in zip(*(stream.batches(start=start) for stream in streams.values()), strict=True):
        yield Batch({name: faces for batch in batches for name, faces in batch.items()})
