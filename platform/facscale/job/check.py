"""`facscale check`: the complete plan of a job, without starting anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from facscale.data import DataError, Dataset
from facscale.data.errors import DatasetNotFoundError, StoreError
from facscale.data.folds import PUBLISHED, concat_splits, make_repeated_folds
from facscale.data.published_sizes import PublishedSize, find_size
from facscale.data.views import View
from facscale.evaluate.protocol import LabelledDataset, build_groups, select_training_split
from facscale.evaluate.scores import PROTOCOLS
from facscale.inference.export import Recipe, build_method_for_job, load_export
from facscale.job.cost import Cost, check_contract, estimate_cost, measure_matrix_rate
from facscale.job.datasets import JobData, count_identities, find_stage_urls
from facscale.job.framing import measure_eval_framing, measure_framing, read_landmarks
from facscale.job.inputs import fetch_input, has_export
from facscale.job.overlap import describe_overlap
from facscale.job.plan import DETECTORS, Plan, TrainNode, build_plan, name_detector
from facscale.job.variants import Variant, expand_stages, expand_variants, hash_values
from facscale.methods import DataFacts, Method
from facscale.progress import format_duration
from facscale.report.published import load_trainings
from facscale.spec import Document, SpecError, yaml_io
from facscale.spec.models import Augment
from facscale.train.engine import build_deepspeed_config
from facscale.train.schedule import Schedule
from facscale.train.setup import open_streams
from facscale.train.task import TrainingTask

# Dense 16-bit operations a second, from their data sheets.
RATES = {"V100": 125e12, "A100": 312e12, "H100": 990e12, "H200": 990e12}
FASTEST = "H200"
LOG_WIDTH = 150
UTILISATION = 0.15  # share of that rate that a ResNet's step reaches, assumed; published runs have 0.19 to 0.29


def check_job(document: Document, *, name: str) -> None:
    """Print the plan of every variant. Raises SpecError or DataError for a job that cannot run.

    Where data sets of the job are not at hand but their sizes are published, the plan is made for those sizes.
    """
    console = Console(width=None if os.isatty(1) else LOG_WIDTH, highlight=False)
    variants = check_spec(document, name=name)
    console.print(resolve_yaml(variants[0]), markup=False)
    data, published = open_or_outline(variants)
    for url, size in published.items():
        console.print(
            f"[bold]not at hand[/bold]: {url}; the plan takes the published size of {size.name}: {size.people:,} people, "
            f"{size.tracks:,} tracks, {size.frames:,} frames ({size.source})"
        )
    estimates: dict[str, Estimate] = {}
    counted: dict[str, Cost] = {}
    for variant in list_distinct(variants):
        facts, missing = select_facts(variant, data), find_missing_files(variant)
        estimate = Estimate(variant, facts, published, missing, counted=counted)
        estimates[variant.title] = estimate
        print_variant(estimate, console)
    print_data(data, published, console)
    console.print()
    plan = build_plan(variants, data)
    console.print(draw_plan(plan, estimates, estimate_adaptations(plan, estimates)))


def check_spec(document: Document, *, name: str) -> list[Variant]:
    """The variants of a job, as far as its file alone tells. Raises SpecError; no data is read."""
    variants = expand_variants(document, name=name)
    for variant in variants:
        check_batches(variant)
    return variants


def check_batches(variant: Variant) -> None:
    """Raise SpecError for a batch of the variant, or of a stage, that its workers cannot share.

    An elastic job must divide it among each number of workers that it may get.
    """
    for dependent in (variant, *expand_stages(variant).values()):
        cluster = dependent.job.cluster
        for workers in range(cluster.min_workers, cluster.max_workers + 1):
            build_deepspeed_config(dependent.job, world=workers)


def resolve_yaml(variant: Variant) -> str:
    """The spec with everything that it inherits and every default, as YAML."""
    spec = variant.job.model_dump(mode="json", exclude={"method"})
    return yaml_io.dump({"method": {"name": variant.job.method.name, **variant.config.model_dump(mode="json")}, **spec})


def list_distinct(variants: Sequence[Variant]) -> list[Variant]:
    """Stages and variants in the order in which they are trained, each config once."""
    distinct: dict[str, Variant] = {}
    for variant in variants:
        for stage in expand_stages(variant).values():
            distinct.setdefault(hash_values([stage.resolved_config()]), stage)
        distinct.setdefault(f"{variant.name} {hash_values([variant.resolved_config()])}", variant)
    return list(distinct.values())


def open_or_outline(variants: Sequence[Variant]) -> tuple[JobData, dict[str, PublishedSize]]:
    """Open the data of a job; where data sets are missing, outline all from published sizes, by URL.

    Raises DataError where a data set is damaged, or is missing and has no published size.
    """
    job = variants[0].job
    urls = [url for source in ("unlabelled", "labelled") for url in job.data.urls(source)]
    urls += [*job.evaluate.transfer, *find_stage_urls(variants)]
    sizes = {url: size for url in urls if is_missing(url) and (size := find_size(url))}
    if not sizes:
        return JobData.open(variants), {}
    sets = {url: outline_labelled(url, sizes[url], variants[0]) for url in urls if url in sizes}
    evaluate = job.evaluate

    def open_labelled(url: str, *, test_only: bool = False) -> LabelledDataset:
        if url in sets:
            return sets[url].as_test_only() if test_only else sets[url]
        return LabelledDataset.open(url, evaluate=evaluate, test_only=test_only)

    present = [Dataset(url) for url in job.data.urls("unlabelled") if url not in sizes]
    identities = count_identities(present)
    identities += sum(sizes[url].people for url in job.data.urls("unlabelled") if url in sizes)
    data = JobData(
        labelled=tuple(open_labelled(url) for url in job.data.urls("labelled")),
        transfer=tuple(open_labelled(url, test_only=True) for url in evaluate.transfer),
        unlabelled=tuple(present),
        identities=identities,
        evaluate=evaluate,
        outlines=sets,
    )
    return data, sizes


def is_missing(url: str) -> bool:
    """Whether there is no data set at a URL, or its store cannot be reached; a damaged one counts as there."""
    try:
        Dataset(url)
    except (DatasetNotFoundError, StoreError):
        return True
    except DataError:
        return False
    return False


def find_missing_files(variant: Variant) -> list[str]:
    """The files that a variant or its stages take as inputs and that are not there."""
    variants = (variant, *expand_stages(variant).values())
    urls = {source.url for dependent in variants for source in dependent.job.dependencies.values() if source.url}
    return sorted(url for url in urls if not has_export(url))


def outline_labelled(url: str, size: PublishedSize, variant: Variant) -> LabelledDataset:
    """A stand-in for a labelled set: its people, folds and AUs, with a single frame of made-up labels for each person."""
    evaluate = variant.job.evaluate
    parts = PUBLISHED.get(size.name)
    people = sorted(person for part in parts for person in part) if parts else []
    people = people or [f"person{number:05d}" for number in range(min(size.people, 1000))]
    split = concat_splits(make_repeated_folds(people, repeats=evaluate.repeats, k=evaluate.folds, seed=evaluate.seed))
    au = (np.add.outer(np.arange(len(people)), np.arange(len(size.aus))) % 2).astype(np.int8)
    return LabelledDataset(url, size.name, "", size.aus, au, np.array(people), split)


def select_facts(variant: Variant, data: JobData) -> DataFacts:
    """What the method knows of the labels when it is trained on everybody."""
    if not data.labelled:
        return DataFacts(identities=data.identities)
    group = build_groups(variant.job, data.labelled)[0]
    facts = select_training_split(group.sets, evaluate=variant.job.evaluate).facts
    return replace(facts, identities=data.identities)


def check_methods(variants: Sequence[Variant], data: JobData) -> None:
    """Build each method of a job, untrained, and run one small step of it on random images.

    Raises ContractError for a method that breaks its contract, and SpecError for hyper-parameters or batches that do not
    fit.
    """
    checked: dict[str, Cost] = {}
    for variant in list_distinct(variants):
        facts = select_facts(variant, data)
        if not data.outlines:
            check_epoch(variant, facts)
        check_method(variant, facts, checked)


def check_method(variant: Variant, facts: DataFacts, checked: dict[str, Cost]) -> Cost:
    """Check the method of a variant, and count the cost of its step, unless `checked` has it. Raises as `check_methods`."""
    spec = variant.job.model_dump(mode="json", include={"inputs", "stages"})
    spec["train"] = variant.job.train.model_dump(mode="json", include={"batch_size", "accumulate", "sync_batchnorm"})
    key = hash_values(
        [
            variant.job.method.name,
            variant.job.cluster.max_workers,
            variant.config.model_dump(mode="json"),
            asdict(facts),
            variant.job.data.image_size,
            spec,
        ]
    )
    if key not in checked:
        inputs, job = build_untrained_inputs(variant, facts), variant.job
        recipes = {name: method.recipe for name, method in inputs.items()}
        checked[key] = estimate_cost(variant.config, job=job, facts=facts, inputs=recipes)
        check_contract(variant.config, job=job, facts=facts, inputs=inputs)
    return checked[key]


def check_epoch(variant: Variant, facts: DataFacts) -> None:
    """Raise SpecError where one batch would take samples twice, because an epoch has fewer of them."""
    train = variant.job.train
    if not train.epochs:
        return
    task = TrainingTask(variant.job, variant.config, facts)
    source, stream = next(iter(open_streams(task, rank=0, world=1, pin=False).items()))
    if train.batch_size > stream.samples_per_epoch:
        raise SpecError(
            f"{variant.document.source_location(('train', 'batch_size'))}: train.batch_size={train.batch_size} is more than "
            f"the {stream.samples_per_epoch:,} samples of an epoch of data.{source}, so that each batch would hold some of "
            "them several times: choose a smaller one, or a larger data.epoch.count"
        )


@dataclass(frozen=True)
class Estimate:
    """What training a variant takes, from its data and its operations."""

    variant: Variant
    facts: DataFacts
    published: Mapping[str, PublishedSize]  # of data sets that are not at hand, by URL
    missing_files: Sequence[str]  # inputs that are not at hand; without them nothing is known of the cost
    pretrained: Variant | None = None  # whose encoder it is trained on, in place of inputs that its spec names
    twin: Estimate | None = None  # of the same method on other people: its cost is taken
    counted: dict[str, Cost] = field(default_factory=dict)  # of the methods that have been checked
    source_bytes: dict[str, float] = field(default_factory=dict, init=False)  # of a sample, by source; see `epochs`

    @cached_property
    def cost(self) -> Cost:
        """Operations and memory of a step. Raises as `check_methods`."""
        if self.twin is not None:
            return self.twin.cost
        if self.pretrained is None:
            return check_method(self.variant, self.facts, self.counted)
        inputs = {"pretrained": make_recipe(self.pretrained, self.facts)}
        return estimate_cost(self.variant.config, job=self.variant.job, facts=self.facts, inputs=inputs)

    @cached_property
    def epochs(self) -> dict[str, tuple[int, str]]:
        """Samples of an epoch and a description, by source. Raises SpecError where the spec lacks a source."""
        variant, views = self.variant, self.variant.method.train_views(self.variant.config)
        for source in dict.fromkeys(view.source for view in views.values()):
            if not variant.job.data.urls(source):
                raise SpecError(
                    f"{variant.document.source_location(('data',))}: {variant.job.method.name} reads {source} faces; "
                    f"give data.{source}"
                )
        if any(url in self.published for view in views.values() for url in variant.job.data.urls(view.source)):
            return self._estimate_epochs(views)
        epochs: dict[str, tuple[int, str]] = {}
        check_epoch(variant, self.facts)
        streams = open_streams(TrainingTask(variant.job, variant.config, self.facts), rank=0, world=1, pin=False)
        for name, stream in streams.items():
            names = ", ".join(Dataset(url).manifest.name for url in variant.job.data.urls(name))
            size = f"{stream.compute_bytes_per_epoch() / 1e9:.3f} GB"
            epochs[name] = stream.samples_per_epoch, f"{stream.samples_per_epoch:,} samples, {size}, of {names}"
            self.source_bytes[name] = stream.compute_bytes_per_epoch() / stream.samples_per_epoch
        return epochs

    @property
    def sample_bytes(self) -> float:
        """Bytes that are read for a sample, of all sources together; 0 where the data is not at hand."""
        return sum(self.source_bytes.values()) if self.epochs else 0.0

    def _estimate_epochs(self, views: Mapping[str, View]) -> dict[str, tuple[int, str]]:
        """From published sizes: `data.epoch.count` samples of each unit, or as many as the frames give."""
        data, epochs = self.variant.job.data, dict[str, tuple[int, str]]()
        for source in dict.fromkeys(view.source for view in views.values()):
            extent = max(view.extent for view in views.values() if view.source == source)
            sizes = [find_size(url) for url in data.urls(source)]
            known = [size for size in sizes if size]
            units = {"identity": "people", "video": "videos", "track": "tracks"}
            samples = sum(
                size.frames // extent
                if data.epoch.samples_per == "frame"
                else data.epoch.count * int(getattr(size, units[data.epoch.samples_per]))
                for size in known
            )
            samples = max(1, round(samples * (1 - data.validation - data.test)))
            epochs[source] = samples, f"about {samples:,} samples of {', '.join(size.name for size in known)}"
        return epochs

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of one training on everybody."""
        samples, _ = next(iter(self.epochs.values()))
        return Schedule(self.variant.job, samples).steps

    @property
    def train_share(self) -> float:
        """Share of the frames that one training sees: of k folds each trains on (k - 1) / k."""
        folds = self.variant.job.evaluate.folds
        return (folds - 1) / folds if self.variant.learns_from_labels else 1.0

    def predict_seconds(self, rate: float) -> float:
        """Seconds of one training at `rate` operations a second of all workers together."""
        work = self.steps * self.variant.job.train.batch_size * self.cost.flops_per_sample
        return self.train_share * work / rate


def print_variant(estimate: Estimate, console: Console) -> None:
    """Print a variant's views, its data and its cost."""
    variant = estimate.variant
    job, workers = variant.job, variant.job.cluster.max_workers
    console.print(f"\n[bold]{variant.name}[/bold] ({job.method.name})")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, view in variant.method.train_views(variant.config).items():
        batch = job.train.batch_size // job.train.accumulate // workers
        side = job.data.image_size
        shape = f"[{batch}, {view.count}, {view.views}, 3, {side}, {side}]" if view.pixels else f"{batch} labels"
        table.add_row(f"view {name}", f"{view.source}: {type(view).__name__}, {shape} a worker and micro-batch")
    for source, (_, description) in estimate.epochs.items():
        table.add_row(f"{source} epoch", description)
    steps = f"{estimate.steps:,} in total, {job.train.batch_size} samples each: {job.train.epochs:g} epochs"
    table.add_row("steps", steps)
    if training := load_trainings().get(job.method.name):
        table.add_row("published", f"about {training.steps:,} steps: {training.source}")
    for name, text in describe_framing(estimate):
        table.add_row(name, text)
    if estimate.missing_files:
        table.add_row("cost", f"not known: {', '.join(estimate.missing_files)} is not at hand")
        console.print(table)
        return
    for name, text in describe_cost(variant, estimate.cost, workers=workers):
        table.add_row(name, text)
    if job.cluster.gpus_per_worker and any(view.pixels for view in variant.method.train_views(variant.config).values()):
        table.add_row("from the store", describe_feed(estimate, workers=workers))
    console.print(table)
    console.print(f"estimated time: {describe_time(estimate, workers=workers)}")


def describe_framing(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """How often the face is cut off in training samples and in evaluation, for each data set that is at hand."""
    job, views = estimate.variant.job, estimate.variant.method.train_views(estimate.variant.config).values()
    for source in dict.fromkeys(view.source for view in views if view.pixels):
        for url in job.data.urls(source):
            if url not in estimate.published:
                yield from describe_faces(url, job.data.augment, seed=job.seed)


@lru_cache(maxsize=64)  # the rows of a job mostly have the same data
def describe_faces(url: str, spec: Augment, *, seed: int) -> tuple[tuple[str, str], ...]:
    """A line of how often the faces of a data set are cut off, with its heading; none where it has no landmarks."""
    dataset = Dataset(url)
    points = read_landmarks(dataset)
    if not len(points):
        return ()
    options: dict[str, Any] = {"stored": dataset.manifest.image_size, "margin": dataset.manifest.margin}
    trained = measure_framing(points, spec, **options, seed=seed)
    evaluated = measure_eval_framing(points, spec, **options)
    return ((f"faces of {dataset.manifest.name}", f"in training: {trained}; in evaluation: {evaluated}"),)


def describe_cost(variant: Variant, cost: Cost, *, workers: int) -> list[tuple[str, str]]:
    """Parameters, operations and memory, in words."""
    memory = cost.memory(variant.job, workers=workers)
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in memory.items())
    operations = cost.flops_per_sample * variant.job.train.batch_size / 1e12
    return [
        ("parameters", f"{cost.trained / 1e6:.2f} M trained, {cost.parameters / 1e6:.2f} M in all"),
        ("operations", f"{operations:.3f} TFLOP a step, forward and backward"),
        ("memory", f"{sum(memory.values()) / 2**30:.2f} GiB on each of {workers} workers at most ({parts})"),
        ("ZeRO", describe_stages(variant, cost, workers=workers)),
    ]


def describe_feed(estimate: Estimate, *, workers: int) -> str:
    """Frames and bytes a second that keep the GPUs busy, at the rate that `describe_time` assumes."""
    variant, name = estimate.variant, FASTEST
    samples = RATES[name] * UTILISATION * workers / estimate.cost.flops_per_sample
    views = variant.method.train_views(variant.config).values()
    frames = samples * sum(view.count for view in views if view.pixels)
    rate = f"{frames:,.0f} frames/s" + (
        f" ({samples * size / 1e9:.2f} GB/s)" if (size := estimate.sample_bytes) else ""
    )
    return f"{rate} for {workers} {name}s at {UTILISATION:.0%} of their 16-bit rate, if no frame is read twice"


def describe_stages(variant: Variant, cost: Cost, *, workers: int) -> str:
    """The stage of ZeRO of a job, and what each stage takes of a worker's memory and sends in a step."""
    stage = variant.job.deepspeed.stage
    if workers == 1:
        return f"stage {stage}; a single worker has nothing to shard, so that stage 0 is the fastest"

    def describe(number: int) -> str:
        memory = sum(cost.memory(variant.job, workers=workers, stage=number).values()) / 2**30
        sent = cost.measure_exchange(variant.job, workers=workers, stage=number) / 2**30
        return f"stage {number} takes {memory:.2f} GiB of each of {workers} workers and sends {sent:.2f} GiB a step"

    stages = "; ".join(map(describe, (0, 1, 2)))
    return f"stage {stage}. {stages}. Stages 1 and 2 also compute more in every step (docs/how-to/speed.md)"


def describe_time(estimate: Estimate, *, workers: int) -> str:
    """The time of all folds of a variant, from operations alone; `facscale rehearse` measures it."""
    variant = estimate.variant
    trainings = variant.job.evaluate.folds if variant.learns_from_labels else 1
    if not variant.job.cluster.gpus_per_worker:
        seconds = trainings * estimate.predict_seconds(0.5 * measure_matrix_rate())
        return f"{format_duration(seconds)} on this machine's cores, if they reach half of their matrix rate"
    times = (
        f"{format_duration(trainings * estimate.predict_seconds(rate * UTILISATION * workers))} on {name}s"
        for name, rate in RATES.items()
    )
    return ", ".join(times) + f" ({workers} of them at {UTILISATION:.0%} of their 16-bit rate, if the data keeps up)"


def build_untrained_inputs(variant: Variant, facts: DataFacts) -> dict[str, Method]:
    """The inputs of a method: files as they are, untrained methods for stages. Raises SpecError for an unreadable file."""
    stages = {
        name: build_method_for_job(stage.job, stage.config, facts, build_untrained_inputs(stage, facts))
        for name, stage in expand_stages(variant).items()
    }
    sources = {name: source for name, source in variant.job.inputs.items() if source}
    return {
        name: stages[source.stage] if source.stage else load_export(fetch_input(source))
        for name, source in sources.items()
    }


def make_recipe(variant: Variant, facts: DataFacts) -> Recipe:
    """What the method of a variant is built from. Raises SpecError for an input file that cannot be read."""
    stages = expand_stages(variant)
    inputs = {
        name: make_recipe(stages[source.stage], facts) if source.stage else load_export(fetch_input(source)).recipe
        for name, source in variant.job.inputs.items()
        if source
    }
    sized = replace(facts, image_size=variant.job.data.image_size)
    return Recipe(variant.job.method.name, variant.config.model_dump(mode="json"), sized, inputs)


def print_data(data: JobData, published: Mapping[str, PublishedSize], console: Console) -> None:
    """Print what is tested, in which folds, and how many of the people pre-training sees."""
    for dataset in data.labelled:
        sizes = ", ".join(f"{len(fold.test)} people" for fold in dataset.split)
        frames = published[dataset.url].frames if dataset.url in published else len(dataset.au)
        console.print(
            f"\n[bold]cross-validation[/bold] on {dataset.name}: {frames:,} frames, {len(dataset.aus)} AUs; "
            f"folds from {dataset.split.source}: {sizes}"
        )
    for dataset in data.transfer:
        frames = published[dataset.url].frames if dataset.url in published else len(dataset.au)
        console.print(f"[bold]tested too[/bold] on {dataset.name}: {frames:,} frames; nothing is learned from it")
    for faces in data.expressions:
        parts = f"{(~faces.test).sum():,} train and {faces.test.sum():,} test faces"
        console.print(f"[bold]expressions[/bold] of {faces.name}: {parts}, {len(faces.classes)} classes")
    if line := describe_overlap(data):
        console.print(line, markup=False, soft_wrap=True)


def estimate_adaptations(plan: Plan, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """What it takes to adapt BatchNorm in the folds, by id of the training; `estimates`: of the variants, by title."""
    adaptations: dict[str, Estimate] = {}
    for variant_plan in plan.variants:
        twin = None
        for evaluation in variant_plan.evaluations:
            if evaluation.protocol == "adapted-batchnorm":
                first, variant = plan.trainings[evaluation.models[0]], variant_plan.variant
                estimate = replace(estimates[variant.title], variant=first.variant, pretrained=variant, twin=twin)
                twin = twin or estimate
                adaptations |= dict.fromkeys(evaluation.trainings, estimate)
    return adaptations


def draw_plan(plan: Plan, estimates: Mapping[str, Estimate], adaptations: Mapping[str, Estimate]) -> Tree:
    """The plan as a tree: each training hangs below what it waits for, and evaluations below their trainings.

    `estimates`: of variants, by title; `adaptations`: of BatchNorm, by id of the training.
    """
    count = sum(node.variant.job.seeds for node in plan.trainings.values())
    number = f"{format_count(count, 'training')} for {format_count(len(plan.variants), 'row')}"
    tree = Tree(f"[bold]plan[/bold]: {number}; each waits for the one that it hangs below")
    branches: dict[str, Tree] = {}
    for nodes in group_folds(plan.trainings.values()):
        waits_for = list(dict.fromkeys(nodes[0].inputs.values()))
        parent = branches[waits_for[-1]] if waits_for else tree
        others = [plan.trainings[key].title for key in waits_for[:-1]]
        label = describe_trainings(nodes, estimates, adaptations) + (
            f"; waits for {', '.join(others)} too" if others else ""
        )
        branch = parent.add(label)
        branches |= {node.id: branch for node in nodes}
    for variant_plan in plan.variants:
        for evaluation in variant_plan.evaluations:
            tested = ", ".join(dataset.name for dataset, _ in evaluation.group.test_parts(0))
            how = PROTOCOLS[evaluation.protocol]
            branch = branches[evaluation.models[0]]
            branch.add(f"F1 on {tested}, {len(evaluation.group.folds)} folds: {how}")
            if text := DETECTORS[evaluation.detector_kind]:
                target = branches[evaluation.final] if evaluation.final else branch
                target.add(f"detector {name_detector(evaluation)}: {text}")
    return tree


def group_folds(nodes: Iterable[TrainNode]) -> list[list[TrainNode]]:
    """Trainings that differ in their fold alone together, in the order of the plan."""
    groups: dict[tuple[str, str, str], list[TrainNode]] = {}
    for node in nodes:
        key = node.id if node.fold is None else ""
        learned = "" if node.group is None else node.group.name
        name = node.title if node.group is None else node.title.replace(node.group.fold_name(node.fold or 0), "")
        groups.setdefault((key, learned, name), []).append(node)
    return list(groups.values())


def describe_trainings(
    nodes: Sequence[TrainNode], estimates: Mapping[str, Estimate], adaptations: Mapping[str, Estimate]
) -> str:
    """One line for trainings that differ in their fold alone."""
    first, job = nodes[0], nodes[0].variant.job
    title = first.title.replace(f" seed {job.seed}", "") if job.seeds > 1 else first.title
    if len(nodes) > 1 and first.group is not None:
        folds = [first.group.fold_name(node.fold or 0) for node in (first, nodes[-1])]
        title = title.replace(folds[0], " … ".join(folds))
    number = len(nodes) * job.seeds
    parts = [f"{number} trainings of {job.method.name}" if number > 1 else job.method.name]
    if first.id in adaptations:
        parts.append(f"{job.train.epochs:g} epochs of BatchNorm and a linear layer")
    estimate = adaptations.get(first.id) or estimates[first.variant.title]
    share = estimate.train_share if first.fold is not None else 1
    parts += [f"{round(estimate.steps * share):,} steps", predict_time(estimate)]
    return f"[bold]{title}[/bold]: {', '.join(parts)}" + (" each" if number > 1 else "")


def format_count(number: int, noun: str) -> str:
    """As in "1 training", "3 trainings"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def predict_time(estimate: Estimate) -> str:
    """How long one training takes, on the first kind of device that the job asks for."""
    job = estimate.variant.job
    if not estimate.steps:
        return "nothing to train"
    if estimate.missing_files:
        return "time not known"
    if not job.cluster.gpus_per_worker:
        return f"about {format_duration(estimate.predict_seconds(0.5 * measure_matrix_rate()))} on these cores"
    rate = RATES["H100"] * UTILISATION * job.cluster.max_workers
    return f"about {format_duration(estimate.predict_seconds(rate))} on {job.cluster.max_workers} H100"
