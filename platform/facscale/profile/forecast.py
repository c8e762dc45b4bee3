"""Forecasts how long a job takes, from the profiles of one or several of its trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from facscale.data import Dataset
from facscale.inference.export import load_export
from facscale.job.cost import Cost, estimate_cost
from facscale.job.variants import hash_values
from facscale.methods import find_method
from facscale.profile.diagnosis import Diagnosis, PartRates, diagnose, estimate_rate
from facscale.profile.trainings import PlannedTraining
from facscale.profile.worker import WorkerProfile
from facscale.train.task import TrainingTask

GIGABYTE = 1e9


@dataclass(frozen=True)
class Price:
    """The price of an hour; 0: not known."""

    gpu: float = 0.0
    node: float = 0.0


@dataclass(frozen=True)
class SampleSize:
    """What a sample consists of."""

    frames: int  # that are decoded for it
    images: int  # that are trained on: augmented copies of a frame count each

    @classmethod
    def from_task(cls, task: TrainingTask) -> Self:
        """Count the frames and images of the method's views."""
        views = find_method(task.job.method.name).train_views(task.config).values()
        pixels = [view for view in views if view.pixels]
        return cls(sum(view.count for view in pixels), sum(view.count * view.views for view in pixels))


@dataclass(frozen=True)
class ProfiledTraining:
    """A training, and what its workers measured."""

    training: PlannedTraining
    workers: list[WorkerProfile]  # by rank
    rates: PartRates
    sample: SampleSize
    diagnosis: Diagnosis

    @classmethod
    def from_workers(cls, training: PlannedTraining, profiles: Sequence[WorkerProfile]) -> Self:
        """Compute the rates and the diagnosis."""
        job, sample = training.task.job, SampleSize.from_task(training.task)
        workers = sorted(profiles, key=lambda worker: worker.rank)
        rates = PartRates.from_workers(workers, job=job, frames=sample.frames)
        diagnosis = diagnose(workers, rates, job=job, cached=fits_cache(training.task))
        return cls(training, workers, rates, sample, diagnosis)

    @property
    def slowest(self) -> WorkerProfile:
        """The worker that all others wait for."""
        return max(self.workers, key=lambda worker: worker.step_s)

    @cached_property
    def cost(self) -> Cost:
        """Operations of a step."""
        return count_cost(self.training.task)


@dataclass(frozen=True)
class Forecast:
    """The trainings of a variant that have the same pace."""

    row: str
    method: str
    count: int
    steps: int  # of all of them
    longest_s: float  # of one
    seconds: float  # of all, one after the other
    gpu_s: float  # that GPUs are held for them
    is_measured: bool  # else estimated from operations and frames


def forecast_trainings(
    planned: Sequence[PlannedTraining], profiled: Mapping[str, ProfiledTraining], *, first: str
) -> list[Forecast]:
    """One forecast for each variant and pace; `first`: the pace from which those are estimated that were not profiled."""
    groups: dict[tuple[str, str], list[PlannedTraining]] = {}
    for training in planned:
        groups.setdefault((training.row, compute_pace_key(training.task)), []).append(training)
    return [forecast_group(group, profiled, first=first) for group in groups.values()]


def forecast_group(
    group: Sequence[PlannedTraining], profiled: Mapping[str, ProfiledTraining], *, first: str
) -> Forecast:
    """The forecast of trainings of one variant that have the same pace."""
    task, measured = group[0].task, profiled.get(compute_pace_key(group[0].task))
    reference = measured or profiled[first]
    batch, every = task.job.train.batch_size, task.job.train.checkpoint_every
    rate = reference.rates.training
    if measured is None:
        rate = estimate_rate(
            count_cost(task),
            frames=SampleSize.from_task(task).frames,
            measured=reference.cost,
            measured_frames=reference.sample.frames,
            rates=reference.rates,
        )
    checkpoint_s = reference.slowest.checkpoint_s
    seconds = [training.steps * batch / rate + training.steps // every * checkpoint_s for training in group]
    total = sum(duration * training.seeds for duration, training in zip(seconds, group, strict=True))
    return Forecast(
        row=group[0].row,
        method=task.job.method.name,
        count=sum(training.seeds for training in group),
        steps=sum(training.steps * training.seeds for training in group),
        longest_s=max(seconds),
        seconds=total,
        gpu_s=total * task.job.cluster.gpus_per_worker * len(reference.workers),
        is_measured=measured is not None,
    )


def compute_pace_key(task: TrainingTask) -> str:
    """The same for trainings whose steps take equally long."""
    job = task.job
    settings = [job.train.batch_size, job.train.accumulate, job.train.precision, job.data.image_size]
    return hash_values(
        [
            job.method.name,
            task.config.model_dump(mode="json"),
            sorted(task.inputs),
            settings,
            job.deepspeed.model_dump(),
        ]
    )


def count_cost(task: TrainingTask) -> Cost:
    """Count the operations of one small step of a task."""
    inputs = {name: load_export(export).recipe for name, export in task.inputs.items()}
    return estimate_cost(task.config, job=task.job, facts=task.facts, inputs=inputs)


def fits_cache(task: TrainingTask) -> bool:
    """Whether the nodes' disks hold all that an epoch reads from a remote store."""
    sources = {view.source for view in find_method(task.job.method.name).train_views(task.config).values()}
    datasets = [Dataset(url) for source in sources for url in task.job.data.urls(source)]
    remote = [dataset for dataset in datasets if not dataset.folder.is_local]
    size = sum(shard.bytes for dataset in remote for shard in dataset.manifest.shards)
    return size <= task.job.data.cache_gb * GIGABYTE
