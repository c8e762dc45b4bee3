"""Evaluated rows of jobs, read from the tracker: each is one training, or one for each of its seeds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facscale.errors import UserError
from facscale.evaluate import MethodScores
from facscale.spec import suggest_nearest
from facscale.track.query import TrackedRun

FOLD_METRIC = re.compile(r"(?P<fold>[^/]+)/f1/AU(?P<au>\d+)")
MEAN_METRIC = re.compile(r"f1/AU(\d+)")
POOLED = "pooled"
MIN_ID_LENGTH = 6  # characters of a run's id that are enough to name it


class CompareError(UserError):
    """A run cannot be found, or cannot be compared."""


@dataclass(frozen=True)
class ResultEntry:
    """One row of a table: a method as a job evaluated it."""

    name: str  # unique among the entries
    job: str
    cluster: str
    method: str
    scores: MethodScores
    runs: tuple[TrackedRun, ...]  # one for each seed

    @property
    def label(self) -> str:
        """The row's own name in its job."""
        return self.runs[0].tags["row"]


def collect_entries(runs: Sequence[TrackedRun]) -> list[ResultEntry]:
    """All evaluated rows among an experiment's runs, the newest job first; runs of folds, stages and trials are left out."""
    groups: dict[tuple[str, str], list[TrackedRun]] = defaultdict(list)
    for run in runs:
        if is_result_run(run):
            groups[run.parent or run.id, run.tags["row"]].append(run)
    newest = sorted(groups.values(), key=lambda seeds: -max(run.start for run in seeds))
    names = _choose_names([_candidate_names(seeds[0]) for seeds in newest])
    return [_build_entry(name, seeds) for name, seeds in zip(names, newest, strict=True)]


def is_result_run(run: TrackedRun) -> bool:
    """Whether a run is a row of its job's table, or one seed of it."""
    row = run.tags.get("row", "")
    is_row = not run.parent or run.name == row or re.fullmatch(re.escape(row) + r" seed \d+", run.name)
    return bool("f1/mean" in run.metrics and row and is_row and run.tags.get("source") != "paper")


def find_entry(entries: Sequence[ResultEntry], word: str) -> ResultEntry:
    """Find an entry by its name, job/row, row (the newest of that name), or the beginning of a run's id.

    Raises CompareError where there is none.
    """
    for matches in (
        lambda entry: word == entry.name,
        lambda entry: word == f"{entry.job}/{entry.label}",
        lambda entry: word in {entry.label, *(run.name for run in entry.runs)},
        lambda entry: len(word) >= MIN_ID_LENGTH and any(run.id.startswith(word) for run in entry.runs),
    ):
        for entry in entries:
            if matches(entry):
                return entry
    raise CompareError(f'no evaluated run is called "{word}"{suggest_nearest(word, [entry.name for entry in entries])}')


def read_scores(name: str, run: TrackedRun) -> MethodScores:
    """F1 by fold from a run's metrics; where it has no folds, its mean F1 as the only fold "all"."""
    aus = sorted(int(match[1]) for metric in run.metrics if (match := MEAN_METRIC.fullmatch(metric)))
    cells = {
        (match["fold"], int(match["au"])): value
        for metric, value in run.metrics.items()
        if (match := FOLD_METRIC.fullmatch(metric))
    }
    folds = sorted({fold for fold, _ in cells} - {POOLED}, key=lambda fold: (len(fold), fold))
    pooled = np.array([cells.get((POOLED, au), np.nan) for au in aus], float)
    if folds:
        by_fold = np.array([[cells.get((fold, au), np.nan) for au in aus] for fold in folds], float)
    else:
        by_fold, folds = np.array([[run.metrics[f"f1/AU{au}"] for au in aus]], float), ["all"]
    by_fold, protocol = by_fold.reshape(len(folds), len(aus)), run.tags.get("protocol", "")
    return MethodScores(name, tuple(aus), by_fold, pooled, tuple(folds), protocol=protocol)


def _build_entry(name: str, seeds: Sequence[TrackedRun]) -> ResultEntry:
    tags, runs = seeds[0].tags, tuple(sorted(seeds, key=lambda run: run.name))
    scores = MethodScores.combine_seeds([read_scores(name, run) for run in runs])
    return ResultEntry(name, tags.get("job", ""), tags.get("cluster", ""), tags.get("method", ""), scores, runs)


def _candidate_names(run: TrackedRun) -> list[str]:
    """Names from the shortest one to one that is surely unique."""
    row, job, cluster = (run.tags.get(tag, "") for tag in ("row", "job", "cluster"))
    short = row if row == job else f"{row} ({job})"
    return [row, short, f"{row} ({job}, {cluster})", f"{row} ({job}, {cluster}, {run.id[:MIN_ID_LENGTH]})"]


def _choose_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """For each entry the shortest of its candidates that no other entry has at the same place."""
    unique_names = []
    for names in candidates:
        unique = (name for place, name in enumerate(names) if sum(other[place] == name for other in candidates) == 1)
        unique_names.append(next(unique, names[-1]))
    return unique_names
