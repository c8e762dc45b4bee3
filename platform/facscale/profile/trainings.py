"""All trainings of a job: found by playing its story through without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facscale.job.judge import Judge, adapting
from facscale.job.labelled import Labelled, groups
from facscale.job.lanes import Lanes
from facscale.job.variants import Variant, training_key
from facscale.train.plan import Plan
from facscale.train.task import Task
from facscale.train.trainer import initial, samples_per_epoch


@dataclass(frozen=True)
class Training:
    """One that the job will do, or several that differ in their seeds alone."""

    row: str
    title: str
    task: Task
    steps: int
    seeds: int


class Noting:
    """Stands where training would: notes what is to be trained, once each, and gives it as it is initialised."""

    def __init__(self) -> None:
        self.found: dict[str, Training] = {}  # by what decides the weights
        self.row: Variant | None = None  # whose trainings these are

    def __call__(self, task: Task, title: str) -> bytes:
        """The untrained method of a task."""
        assert self.row is not None
        key = training_key(task, fingerprints=[])
        if key not in self.found:
            steps = Plan(task.job, samples_per_epoch(task)).steps if task.job.train.epochs else 0
            self.found[key] = Training(self.row.name, title, task, steps, self.row.job.seeds)
        return initial(task)


def trainings(rows: Sequence[Variant], *, sets: Sequence[Labelled], identities: int) -> list[Training]:
    """What all rows train, stages before what stands on them; `identities`: people of the unlabelled data."""
    noting = Noting()
    for row in rows:
        noting.row = row
        play(row, noting, sets=sets, identities=identities)
    return [training for training in noting.found.values() if training.steps]


def play(row: Variant, noting: Noting, *, sets: Sequence[Labelled], identities: int) -> None:
    """As `story` would have the row trained and probed."""
    judge, parts = Judge(row, noting, Lanes(1), identities), groups(row.job, sets)
    if row.learns_from_labels:
        for part in parts:
            judge.folds(part)
        return
    exported = judge.pretrained
    if row.job.evaluate.protocol == "adapted-batchnorm":
        probes = Judge(adapting(row), noting, Lanes(1), given={"pretrained": exported})
        for part in parts:
            probes.folds(part)
