"""The trainings of a job as tasks, without training anything: read from its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facscale.job.datasets import JobData
from facscale.job.plan import build_plan, make_task
from facscale.job.variants import Variant, make_training_key
from facscale.train.schedule import Schedule
from facscale.train.task import TrainingTask
from facscale.train.trainer import count_samples_per_epoch, initialize


@dataclass(frozen=True)
class PlannedTraining:
    """One training of the job, or several that differ in their seeds alone."""

    row: str  # name of the variant that it is for
    title: str
    task: TrainingTask
    steps: int
    seeds: int


def list_trainings(variants: Sequence[Variant], data: JobData) -> list[PlannedTraining]:
    """What all variants train, each training once, stages before what depends on them. Inputs are untrained methods."""
    plan, exports, trainings = build_plan(variants, data), dict[str, bytes](), dict[str, PlannedTraining]()
    for variant_plan in plan.variants:
        variant = variant_plan.variant
        for node in plan.collect_upstream(variant_plan.trainings):
            if node.id in exports:
                continue
            task = make_task(node, exports, identities=data.identities)
            exports[node.id] = initialize(task)
            key = make_training_key(task, fingerprints=[])
            if key not in trainings:
                steps = Schedule(task.job, count_samples_per_epoch(task)).steps if task.job.train.epochs else 0
                trainings[key] = PlannedTraining(variant.name, node.title, task, steps, variant.job.seeds)
    return [training for training in trainings.values() if training.steps]
