"""`facscale check`: the whole plan of a job, without starting anything."""

from __future__ import annotations

import yaml
from rich.console import Console
from rich.table import Table

from facscale.data import Dataset
from facscale.inference import export
from facscale.job.cost import Cost, cost_of, matrix_rate
from facscale.job.expression import expression_sets
from facscale.job.inputs import fetch
from facscale.job.labelled import Labelled, groups, learned, transferred
from facscale.job.variants import Variant, digest, rows, stages
from facscale.methods import DataFacts, Method
from facscale.progress import duration
from facscale.spec import Document, SpecError
from facscale.train.engine import settings
from facscale.train.plan import Plan
from facscale.train.task import Task
from facscale.train.worker import open_streams, urls

RATES = {"V100": 125e12, "A100": 312e12, "H100": 990e12}  # dense 16-bit operations a second, from their data sheets
UTILISATION = 0.35  # share of that rate that a ResNet's step reaches, assumed


def check_job(document: Document, *, name: str) -> None:
    """Print the plan of every row. Raises SpecError or DataError for a job that cannot run."""
    console = Console(highlight=False)
    variants = checked(document, name=name)
    console.print(resolved(variants[0]), markup=False)
    sets = [Labelled.open(url, evaluate=variants[0].job.evaluate) for url in urls(variants[0].job, "labelled")]
    stages_told = set[str]()
    for row in variants:
        for stage in stages(row).values():
            if digest([stage.said()]) not in stages_told:
                stages_told.add(digest([stage.said()]))
                describe(stage, sets=sets, console=console)
        describe(row, sets=sets, console=console)
    for data in sets:
        sizes = ", ".join(f"{len(fold.test)} people" for fold in data.split)
        console.print(
            f"\n[bold]cross-validation[/bold] on {data.name}: {len(data.au):,} frames, {len(data.aus)} AUs; folds from {data.split.source}: {sizes}"
        )
    for data in transferred(variants[0].job, sets=sets):
        console.print(f"[bold]tested too[/bold] on {data.name}: {len(data.au):,} frames; nobody of it is learned from")
    for one in expression_sets(variants[0].job):
        tested = f"{(~one.test).sum():,} train and {one.test.sum():,} test faces"
        console.print(f"[bold]expressions[/bold] of {one.name}: {tested}, {len(one.classes)} classes")


def checked(document: Document, *, name: str) -> list[Variant]:
    """The rows of a job, as far as its file alone tells. Raises SpecError; no data is looked at."""
    variants = rows(document, name=name)
    for row in variants:
        for workers in range(row.job.cluster.fewest_workers, row.job.cluster.most_workers + 1):
            settings(row.job, world=workers)
    return variants


def resolved(row: Variant) -> str:
    """The spec with everything that it inherits and every default, as YAML."""
    spec = row.job.model_dump(mode="json", exclude={"method"})
    return yaml.safe_dump(
        {"method": {"name": row.job.method.name, **row.config.model_dump(mode="json")}, **spec}, sort_keys=False
    )


def describe(row: Variant, *, sets: list[Labelled], console: Console) -> None:
    """One row: its views, its data, its cost."""
    facts = learned(groups(row.job, sets)[0].sets, evaluate=row.job.evaluate).facts if sets else DataFacts()
    console.print(f"\n[bold]{row.name}[/bold] ({row.job.method.name})")
    workers = row.job.cluster.most_workers
    (plan, steps), table = data_plan(row, facts=facts), Table(show_header=False, box=None, pad_edge=False)
    for name, view in row.method.sample(row.config).items():
        batch = row.job.train.batch_size // row.job.train.accumulate // workers
        side = row.job.data.image_size
        shape = f"[{batch}, {view.count}, {view.views}, 3, {side}, {side}]" if view.pixels else f"{batch} labels"
        table.add_row(f"view {name}", f"{view.source}: {type(view).__name__}, {shape} a worker and micro-batch")
    cost = cost_of(row.config, job=row.job, facts=facts, inputs=untrained(row, facts))
    for name, text in [*plan.items(), *cost_lines(row, cost, workers=workers)]:
        table.add_row(name, text)
    console.print(table)
    console.print(f"estimated time: {estimate(row, cost, steps=steps, workers=workers)}")


def data_plan(row: Variant, *, facts: DataFacts) -> tuple[dict[str, str], int]:
    """Samples, steps and bytes of an epoch in words, and all steps as a number. Raises DataError where the data cannot be read."""
    lines = {}
    streams = open_streams(Task(row.job, row.config, facts), rank=0, world=1, pin=False)
    for source, stream in streams.items():
        if not urls(row.job, source):
            raise SpecError(
                f"{row.document.origin(('data',))}: {row.job.method.name} reads {source} faces; give data.{source}"
            )
        names = ", ".join(Dataset(url).manifest.name for url in urls(row.job, source))
        lines[f"{source} epoch"] = (
            f"{stream.samples_per_epoch:,} samples, {stream.bytes_per_epoch / 1e9:.3f} GB, of {names}"
        )
    plan = Plan(row.job, next(iter(streams.values())).samples_per_epoch)
    lines["steps"] = f"{plan.steps:,} in all, {row.job.train.batch_size} samples each: {row.job.train.epochs:g} epochs"
    return lines, plan.steps


def cost_lines(row: Variant, cost: Cost, *, workers: int) -> list[tuple[str, str]]:
    """Parameters, operations and memory, in words."""
    memory = cost.memory(row.job, workers=workers)
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in memory.items())
    return [
        ("parameters", f"{cost.trained / 1e6:.2f} M trained, {cost.parameters / 1e6:.2f} M in all"),
        (
            "operations",
            f"{cost.flops_per_sample * row.job.train.batch_size / 1e12:.3f} TFLOP a step, forward and backward",
        ),
        ("memory", f"{sum(memory.values()) / 2**30:.2f} GiB on each of {workers} workers at most ({parts})"),
    ]


def estimate(row: Variant, cost: Cost, *, steps: int, workers: int) -> str:
    """From operations alone; `facscale run` then says what it really takes."""
    work = steps * row.job.train.batch_size * cost.flops_per_sample
    if row.learns_from_labels:
        work *= row.job.evaluate.folds - 1  # each of k folds trains on (k - 1) / k of the frames
    if not row.job.cluster.gpus_per_worker:
        return (
            f"{duration(work / matrix_rate() / 0.5)} on this machine's cores, if they reach half of their matrix rate"
        )
    times = (f"{duration(work / (rate * UTILISATION * workers))} on {name}s" for name, rate in RATES.items())
    return ", ".join(times) + f" ({workers} of them at {UTILISATION:.0%} of their 16-bit rate, if the data keeps up)"


def untrained(row: Variant, facts: DataFacts) -> dict[str, Method]:
    """Its inputs: files as they are, stand-ins for what stages will train. Raises SpecError for a file that cannot be read."""
    made = {
        name: export.of_job(stage.job, stage.config, facts, untrained(stage, facts))
        for name, stage in stages(row).items()
    }
    given = {name: source for name, source in row.job.inputs.items() if source}
    return {name: made[source.stage] if source.stage else export.load(fetch(source)) for name, source in given.items()}
