"""What a whole job will take, told from the rehearsal of one of its trainings or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from facscale.data import Dataset
from facscale.inference import export
from facscale.job.cost import Cost, cost_of
from facscale.job.variants import digest
from facscale.methods import find
from facscale.profile.rehearsal import Measured
from facscale.profile.trainings import Training
from facscale.profile.verdict import Parts, Verdict, expected, judged
from facscale.train.task import Task
from facscale.train.worker import urls

GIGABYTE = 1e9


@dataclass(frozen=True)
class Price:
    """What somebody pays for an hour; 0: not said."""

    gpu: float = 0.0
    node: float = 0.0


@dataclass(frozen=True)
class Shape:
    """What a sample is made of."""

    frames: int  # that are decoded for it
    images: int  # that are trained on: augmented copies of a frame count each

    @classmethod
    def of(cls, task: Task) -> Self:
        """By the views of its method."""
        views = [view for view in find(task.job.method.name).sample(task.config).values() if view.pixels]
        return cls(sum(view.count for view in views), sum(view.count * view.views for view in views))


@dataclass(frozen=True)
class Rehearsed:
    """A training, and what its workers found."""

    training: Training
    found: list[Measured]
    parts: Parts
    shape: Shape
    verdict: Verdict

    @classmethod
    def of(cls, training: Training, found: Sequence[Measured]) -> Self:
        """With the judgement."""
        job, shape = training.task.job, Shape.of(training.task)
        ordered = sorted(found, key=lambda one: one.rank)
        parts = Parts.of(ordered, job=job, frames=shape.frames)
        verdict = judged(ordered, parts, job=job, cached=stays_cached(training.task))
        return cls(training, ordered, parts, shape, verdict)

    @property
    def slowest(self) -> Measured:
        """The worker that everybody waits for."""
        return max(self.found, key=lambda one: one.step_s)

    @cached_property
    def cost(self) -> Cost:
        """Its operations, counted."""
        return counted(self.training.task)


@dataclass(frozen=True)
class Forecast:
    """Of the trainings of a row at one pace."""

    row: str
    method: str
    number: int
    steps: int  # of all of them
    longest_s: float  # of one
    seconds: float  # of all, one after the other
    gpu_s: float  # that GPUs are held for them
    measured: bool  # else told from operations and frames


def forecasts(planned: Sequence[Training], done: Mapping[str, Rehearsed], *, first: str) -> list[Forecast]:
    """One for each row and pace; `first`: the pace that those are told from which were not rehearsed."""
    together: dict[tuple[str, str], list[Training]] = {}
    for training in planned:
        together.setdefault((training.row, pace(training.task)), []).append(training)
    return [of_pace(some, done, first=first) for some in together.values()]


def of_pace(some: Sequence[Training], done: Mapping[str, Rehearsed], *, first: str) -> Forecast:
    """Of trainings that go at one pace."""
    task, measured = some[0].task, done.get(pace(some[0].task))
    from_ = measured or done[first]
    batch, every = task.job.train.batch_size, task.job.train.checkpoint_every
    rate = from_.parts.together
    if measured is None:
        rate = expected(
            counted(task), frames=Shape.of(task).frames, measured=from_.cost, measured_frames=from_.shape.frames,
            parts=from_.parts,
        )  # fmt: skip
    seconds = {one.title: one.steps * batch / rate + one.steps // every * from_.slowest.checkpoint_s for one in some}
    all_of_them = sum(seconds[one.title] * one.seeds for one in some)
    return Forecast(
        row=some[0].row, method=task.job.method.name, number=sum(one.seeds for one in some),
        steps=sum(one.steps * one.seeds for one in some), longest_s=max(seconds.values()), seconds=all_of_them,
        gpu_s=all_of_them * task.job.cluster.gpus_per_worker * len(from_.found), measured=measured is not None,
    )  # fmt: skip


def pace(task: Task) -> str:
    """The same for trainings whose steps take equally long."""
    job = task.job
    block = [job.train.batch_size, job.train.accumulate, job.train.precision, job.data.image_size]
    return digest([job.method.name, task.config.model_dump(mode="json"), sorted(task.inputs), block, job.deepspeed])


def counted(task: Task) -> Cost:
    """Of one small step of a task."""
    inputs = {name: export.load(exported) for name, exported in task.inputs.items()}
    return cost_of(task.config, job=task.job, facts=task.facts, inputs=inputs)


def stays_cached(task: Task) -> bool:
    """Whether the nodes' disks keep all that an epoch reads from a store elsewhere."""
    sources = {view.source for view in find(task.job.method.name).sample(task.config).values()}
    sets = [Dataset(url) for source in sources for url in urls(task.job, source)]
    size = sum(shard.bytes for dataset in sets if not dataset.folder.local for shard in dataset.manifest.shards)
    return size <= task.job.data.cache_gb * GIGABYTE
