"""What runs inside each worker, whoever started it: build the run, go on from its checkpoint, train, send records."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from facscale.data import Dataset, augment
from facscale.data.augment import Augmenter
from facscale.data.folds import folds, parts
from facscale.data.labels import labels_of
from facscale.data.stream import Stream
from facscale.data.views import Batch, View
from facscale.evaluate import positives
from facscale.inference import export
from facscale.methods import Method, find
from facscale.nn.batchnorm import synchronise
from facscale.spec import Job, SpecError
from facscale.train.engine import Engine
from facscale.train.figures import losses_in_words, of_step, spent
from facscale.train.loop import Run, train
from facscale.train.plan import Plan
from facscale.train.probe import OnlineProbe
from facscale.train.session import Session
from facscale.train.task import Task
from facscale.train.validation import Validation


def train_task(task: Task, session: Session) -> None:
    """Train `task` to the end of its plan, in this worker."""
    rank, world, device = session.rank, session.world, session.device
    streams = open_streams(task, rank=rank, world=world, pin=device.type == "cuda")
    run = build(task, streams, rank=rank, world=world, device=device, state=session.restore())
    probe = online_probe(task, run)
    validation = Validation(run, held_out(task, rank=rank, world=world), judged=judged(task, rank=rank, world=world))
    began, first = time.monotonic(), run.step
    if rank == 0:
        task.tell("progress", step=run.step, steps=run.plan.steps, note="resumed" if run.step else "started")
        if run.step:
            task.tell("resumed", step=run.step, workers=world)
    plan, settings = run.plan, task.job.train
    with closing(zipped(streams, run.step * settings.batch_size)) as batches:
        for _ in train(run, batches):
            is_saving = plan.due(run.step, every=settings.checkpoint_every)
            if plan.due(run.step, every=settings.log_every):
                if rank == 0:  # it speaks for all
                    speed = (run.step - first) / (time.monotonic() - began)
                    values = of_step(run, speed=speed, streams=streams.values())
                    task.tell("metrics", step=run.step, values=values)
                    task.tell("progress", step=run.step, steps=plan.steps, note=losses_in_words(values))
                    session.export_gauges(run, values)
                is_saving = session.is_preempted() or is_saving
            if probe is not None and plan.due(run.step, every=settings.probe_every):
                task.tell("metrics", step=run.step, values=probe(run.method.encoder))
            if plan.due(run.step, every=settings.validate_every):
                watch(task, run, validation)
            if is_saving:
                session.save(run, {"step": run.step, **spent(run)})
    skipped = [str(fault) for stream in streams.values() for fault in stream.skipped]
    if skipped:
        task.tell("skipped", rank=rank, faults=skipped)


def open_streams(
    task: Task, *, rank: int, world: int, pin: bool, part: str = "train", views: Mapping[str, View] | None = None
) -> dict[str, Stream]:
    """One stream for each source that the method's views name; the first view's source sets the epoch.

    `part` of the people: "train", "validation" or "test" (of the labelled ones, a fold tests others). `views`: others
    than those of a training sample.
    """
    views = views or find(task.job.method.name).sample(task.config)
    data, streams = task.job.data, dict[str, Stream]()
    for source in dict.fromkeys(view.source for view in views.values()):
        datasets = [Dataset(url) for url in urls(task.job, source)]
        streams[source] = Stream(
            datasets,
            {name: view for name, view in views.items() if view.source == source},
            spec=data,
            batch_size=task.job.train.batch_size // task.job.train.accumulate,
            seed=task.job.seed,
            rank=rank,
            world=world,
            subjects=(
                labelled_people(task, datasets, part=part)
                if source == "labelled"
                else people(task.job, datasets, part=part)
            ),
            pin=pin,
        )
    return streams


def people(job: Job, datasets: Sequence[Dataset], *, part: str) -> Mapping[str, Collection[str]] | None:
    """The unlabelled identities of one part, by data set URL; None: everybody. Who is in several sets is one person."""
    if not (job.data.validation or job.data.test):
        return None
    everybody = {person for dataset in datasets for person in dataset.runs.identities}
    found = parts(everybody, validation=job.data.validation, test=job.data.test, seed=job.seed)[part]
    return {dataset.url: found for dataset in datasets}


def labelled_people(task: Task, datasets: Sequence[Dataset], *, part: str) -> Mapping[str, Collection[str]] | None:
    """Of those that the task may learn from, the ones that are trained on, or only watched."""
    if not task.job.data.validation:
        return task.subjects
    return {
        dataset.url: parts(
            task.subjects[dataset.url] if task.subjects else dataset.runs.identities,
            validation=task.job.data.validation, test=0, seed=task.job.seed,
        )[part]
        for dataset in datasets
    }  # fmt: skip


def urls(job: Job, source: str) -> tuple[str, ...]:
    """The data sets of one source, as a tuple whether the spec gives one or several."""
    given = job.data.unlabelled if source == "unlabelled" else job.data.labelled
    return (given,) if isinstance(given, str) else given


def build(
    task: Task,
    streams: dict[str, Stream],
    *,
    rank: int,
    world: int,
    device: torch.device,
    state: Mapping[str, Any] | None = None,
) -> Run:
    """A run where the checkpoint with `state` (`checkpoint.read`) left it; without one, at its beginning."""
    state = state or {}
    torch.manual_seed(task.job.seed)
    method = make_method(task).to(device)
    if task.job.train.sync_batchnorm:
        synchronise(method)
    if state:
        method.load_state_dict(state["method"])
    engines = [Engine(method, root, job=task.job, world=world) for root in method.learning()]
    for engine in engines:
        engine.load_state(state.get("optimizers", {}).get(engine.root.name, {}))
    if task.job.train.compile:
        for name in (name for engine in engines for name in engine.root.modules):
            method.get_submodule(name).compile()
    augment = Augmenter(size=task.job.data.image_size)
    return Run(
        job=task.job,
        plan=Plan(task.job, next(iter(streams.values())).samples_per_epoch),
        method=method,
        engines=engines,
        prepare=lambda batch: laid_out(augment(batch.to(device)), task.job),
        device=device,
        rank=rank,
        step=int(state.get("step", 0)),
    )


def make_method(task: Task) -> Method:
    """The method as it is initialised from the current random state, on the inputs that the spec gives it."""
    inputs = {name: export.load(exported) for name, exported in task.inputs.items()}
    method = export.of_job(task.job, task.config, task.facts, inputs)
    if task.start is not None:
        begin_with(method, export.load(task.start))
    return method


def begin_with(method: Method, start: Method) -> None:
    """Take over every weight that is trained and that `start` has under the same name in the same shape.

    Raises SpecError where there is none.
    """
    own, given = method.state_dict(), start.state_dict()
    trained = {
        f"{path}.{name}"
        for root in method.learning()
        for part in root.modules
        for path, module in method.get_submodule(part).named_modules(prefix=part)
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        for name in (*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False)))
    }
    fits = {name: given[name] for name in trained & own.keys() & given.keys() if own[name].shape == given[name].shape}
    if not fits:
        raise SpecError(f"start: {start.recipe.method} has not one weight that {method.recipe.method} could begin with")
    method.load_state_dict(fits, strict=False)


def laid_out(batch: Batch, job: Job) -> Batch:
    """Images with the channels last in memory, if the spec says so: convolutions follow their input's layout.

    The weights stay as they are, for DeepSpeed cannot send or flatten them otherwise.
    """
    if job.train.channels_last:
        for faces in batch.values():
            images = faces.images.flatten(0, 2).contiguous(memory_format=torch.channels_last)
            faces.images = images.unflatten(0, faces.images.shape[:3])
    return batch


def held_out(task: Task, *, rank: int, world: int) -> list[Batch]:
    """This worker's share of the first batches of the people of `data.validation`; without any, of the others."""
    if not task.job.train.validate_every:
        return []
    part = "validation" if task.job.data.validation else "train"
    return first_batches(task, open_streams(task, rank=rank, world=world, pin=False, part=part))


def judged(task: Task, *, rank: int, world: int) -> list[Batch]:
    """As `held_out`, what a method that learns from labels tells the AUs of, not augmented and with its labels."""
    method, job = find(task.job.method.name), task.job
    if not (job.train.validate_every and job.data.validation and method.learns_from_labels(task.config)):
        return []
    views = {name: view.with_columns("au") for name, view in method.judged(task.config).items()}
    plain = job.data.model_copy(update={"augment": augment.plain(job.data.augment)})
    still = replace(task, job=job.model_copy(update={"data": plain}))
    streams = open_streams(still, rank=rank, world=world, pin=False, part="validation", views=views)
    return first_batches(task, streams)


def first_batches(task: Task, streams: dict[str, Stream]) -> list[Batch]:
    """`train.validation_batches` of them."""
    batches = zipped(streams, 0)
    try:
        return list(itertools.islice(batches, task.job.train.validation_batches))
    finally:
        batches.close()


def watch(task: Task, run: Run, validation: Validation) -> None:
    """Losses over the people who are not trained on, to the method and to whoever watches; and pictures.

    Where nobody is set aside, there are only pictures, of people who are trained on.
    """
    if task.job.data.validation:
        losses = validation.losses()
        run.method.after_validation(losses["total"])
        losses |= validation.f1()
        if run.rank == 0:
            values = {f"validation/{name}": value for name, value in losses.items()}
            task.tell("metrics", step=run.step, values=values)
    if run.rank == 0:
        task.tell("pictures", step=run.step, columns=validation.pictures())


def online_probe(task: Task, run: Run) -> OnlineProbe | None:
    """On rank 0, where the spec wants one: on the first labelled data set, or on faces without labels."""
    if run.rank or not task.job.train.probe_every or not run.method.sees:
        return None
    url = (*urls(task.job, "labelled"), *urls(task.job, "unlabelled"))[0]
    return OnlineProbe(url, people=probed_people(task, Dataset(url)), job=task.job, device=run.device)


def probed_people(task: Task, dataset: Dataset) -> Collection[str] | None:
    """Whom the online probe may look at, for a sweep chooses by it: nobody who is tested in the first fold."""
    if not dataset.manifest.au:
        return None
    if task.subjects is None:
        identity, au = labels_of(dataset)
        evaluate, of_each = task.job.evaluate, positives(au, identity=identity)
        return folds(of_each, k=evaluate.folds, seed=evaluate.seed, positives=of_each)[0].train
    part = "validation" if task.job.data.validation else "train"
    found = labelled_people(task, [dataset], part=part)
    return found[dataset.url] if found else None


def zipped(streams: dict[str, Stream], start: int) -> Generator[Batch]:
    """Batches with the views of all sources, from sample number `start` on."""
    for batches in zip(*(stream.batches(start=start) for stream in streams.values()), strict=True):
        yield Batch({name: faces for batch in batches for name, faces in batch.items()})
