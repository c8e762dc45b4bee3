"""Judged rows as the tracker knows them: each is one training, or one for each of its seeds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facscale.errors import UserError
from facscale.evaluate import Row
from facscale.spec import nearest
from facscale.track.query import TrackedRun

OF_FOLD = re.compile(r"(?P<fold>[^/]+)/f1/AU(?P<au>\d+)")
OVERALL = re.compile(r"f1/AU(\d+)")
POOLED = "pooled"
SHORTEST_ID = 6


class CompareError(UserError):
    """A run cannot be found, or cannot be compared."""


@dataclass(frozen=True)
class Entry:
    """One row of a table: a method as a job judged it."""

    name: str  # tells it from the others
    job: str
    cluster: str
    method: str
    row: Row
    runs: tuple[TrackedRun, ...]  # its trainings, one a seed

    @property
    def label(self) -> str:
        """The row's own name."""
        return self.runs[0].tags["row"]


def entries(runs: Sequence[TrackedRun]) -> list[Entry]:
    """Everything that was judged among an experiment's runs, the newest job first; its folds, stages and trials are not."""
    groups: dict[tuple[str, str], list[TrackedRun]] = defaultdict(list)
    for run in runs:
        if judged(run):
            groups[run.parent or run.id, run.tags["row"]].append(run)
    newest = sorted(groups.values(), key=lambda trainings: -max(run.start for run in trainings))
    names = _distinct([_names(trainings[0]) for trainings in newest])
    return [_entry(name, trainings) for name, trainings in zip(names, newest, strict=True)]


def judged(run: TrackedRun) -> bool:
    """Whether it is a row of a job's table."""
    row = run.tags.get("row", "")
    of_row = not run.parent or run.name == row or re.fullmatch(re.escape(row) + r" seed \d+", run.name)
    return bool("f1/mean" in run.metrics and row and of_row and run.tags.get("source") != "paper")


def named(found: Sequence[Entry], word: str) -> Entry:
    """By name, job/row, row (the newest of that name), or the beginning of a run's id. Raises CompareError."""
    for same in (
        lambda one: word == one.name,
        lambda one: word == f"{one.job}/{one.label}",
        lambda one: word in {one.label, *(run.name for run in one.runs)},
        lambda one: len(word) >= SHORTEST_ID and any(run.id.startswith(word) for run in one.runs),
    ):
        hits = [one for one in found if same(one)]
        if hits:
            return hits[0]
    raise CompareError(f'no run "{word}" was judged{nearest(word, [one.name for one in found])}')


def row_of(name: str, run: TrackedRun) -> Row:
    """F1 by fold from a run's metrics."""
    aus = sorted(int(match[1]) for metric in run.metrics if (match := OVERALL.fullmatch(metric)))
    cells = {
        (m["fold"], int(m["au"])): run.metrics[metric] for metric in run.metrics if (m := OF_FOLD.fullmatch(metric))
    }
    folds = sorted({fold for fold, _ in cells} - {POOLED}, key=lambda fold: (len(fold), fold))
    by_fold = np.array([[cells.get((fold, au), np.nan) for au in aus] for fold in folds], float).reshape(
        len(folds), len(aus)
    )
    pooled = np.array([cells.get((POOLED, au), np.nan) for au in aus], float)
    if not folds:
        by_fold, folds = np.array([[run.metrics[f"f1/AU{au}"] for au in aus]], float), ["all"]
    return Row(name, tuple(aus), by_fold, pooled, tuple(folds))


def _entry(name: str, trainings: Sequence[TrackedRun]) -> Entry:
    first, ordered = trainings[0], tuple(sorted(trainings, key=lambda run: run.name))
    row = Row.repeated([row_of(name, run) for run in ordered])
    tags = first.tags
    return Entry(name, tags.get("job", ""), tags.get("cluster", ""), tags.get("method", ""), row, ordered)


def _names(run: TrackedRun) -> list[str]:
    """From the shortest name to one that surely tells it from others."""
    row, job, cluster = (run.tags.get(tag, "") for tag in ("row", "job", "cluster"))
    short = row if row == job else f"{row} ({job})"
    return [row, short, f"{row} ({job}, {cluster})", f"{row} ({job}, {cluster}, {run.id[:SHORTEST_ID]})"]


def _distinct(choices: Sequence[Sequence[str]]) -> list[str]:
    """For each the shortest of its names that no other one has at that length."""
    found = []
    for mine in choices:
        lengths = [length for length, name in enumerate(mine) if sum(other[length] == name for other in choices) == 1]
        found.append(mine[lengths[0]] if lengths else mine[-1])
    return found
