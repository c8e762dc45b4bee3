"""How sure it is that one method errs less than another (AUNet, section V.E, Table XII), and both beside their F1.

The frames of a video resemble each other, so a test over frames counts the same evidence many times over and its p is far
too small, down to 1e-160 in the paper. The people of a data set are independent of each other: the p over their mean
errors is the one to believe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.table import Table as RichTable
from scipy.special import stdtr

from facscale.evaluate.f1 import mean
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.relations import adjacency_distance, dependency_f1

SMALLEST = float(np.finfo(float).tiny)  # no test is certain: what is smaller than a float can be stays above 0
# pairs of AUs: the distance of their adjacency, and dependency F1; words short enough for a narrow terminal
HEADINGS = (
    "F1 x 100", "pairs: L2", "pairs: F1 x 100", "error x 100", "t, frames", "p, frames", "t, people", "p, people",
)  # fmt: skip


class TTest(NamedTuple):
    """Of b against a: b errs less where t and `difference` are negative. p is two-sided."""

    frames_t: float
    frames_p: float
    subjects_t: float
    subjects_p: float
    difference: float  # mean error of b minus that of a, over frames


@dataclass(frozen=True)
class Compared:
    """One method beside the first one."""

    name: str
    f1: float  # mean, as in the table of F1
    distance: float  # of co-occurrence
    dependency: float  # F1
    test: TTest | None  # against the first method, which has none


@dataclass(frozen=True)
class Comparison:
    """Methods tested on the same frames. As in the paper, t is negative for one that errs less than the first."""

    rows: tuple[Compared, ...]

    def rich(self, *, title: str) -> RichTable:
        """For the terminal."""
        caption = f"t < 0: errs less than {self.rows[0].name}; frames of a video are not independent: believe p, people"
        table = RichTable(title=title, title_justify="left", caption=caption, caption_justify="left")
        table.add_column("", no_wrap=True)
        for heading in HEADINGS:
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(row.name, *_cells(row))
        return table

    def markdown(self) -> str:
        """For a README."""
        lines = [["method", *HEADINGS], ["---"] * (len(HEADINGS) + 1), *([row.name, *_cells(row)] for row in self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """One line a method, unrounded, F1 in [0, 1]; what is undefined is empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "f1", "distance", "dependency", *TTest._fields])
        for row in self.rows:
            values = [row.f1, row.distance, row.dependency, *(row.test or [np.nan] * len(TTest._fields))]
            writer.writerow([row.name, *("" if np.isnan(value) else value for value in values)])
        return out.getvalue()


def compared(predictions: Sequence[Predictions], *, threshold: float) -> Comparison:
    """Every method by itself and against the first one. Raises ValueError where the frames are not the same."""
    first = predictions[0]
    rows = [
        Compared(
            method.name,
            f1=method.row(threshold).mean,
            distance=adjacency_distance(method, threshold=threshold),
            dependency=dependency_f1(method, threshold=threshold),
            test=None if method is first else paired_t(first, method),
        )
        for method in predictions
    ]
    return Comparison(tuple(rows))


def paired_t(a: Predictions, b: Predictions) -> TTest:
    """Student's paired t-test of b's errors against a's, over frames and over the mean errors of the people.

    The error of a frame is the mean of |p - y| over the AUs labelled in it; a frame without a label is no part. Frames are
    matched by person, video and number, in whatever order they stand. Raises ValueError where they, the AUs or the labels
    are not the same.

    Differs from the paper: it does not say what a pair is. Two-sided, its t and p fit each other from 0.9 million pairs on,
    so these were perhaps the single labels (twelve a frame, 1.76 million in BP4D's 146,847 frames).
    """
    a, b = (method.chosen(method.order()) for method in (a, b))
    _same(a, b)
    known = (a.au >= 0).any(axis=1)
    difference = (_errors(b) - _errors(a))[known]
    _, person = np.unique(a.identity[known], return_inverse=True)
    of_people = np.bincount(person, weights=difference) / np.bincount(person)
    return TTest(*_t(difference), *_t(of_people), float(mean(difference)))


def _errors(predictions: Predictions) -> np.ndarray:
    """Mean |p - y| of each frame [N], nan where nothing is labelled."""
    error = np.abs(predictions.probability.astype(float) - predictions.au)
    return mean(np.where(predictions.au >= 0, error, np.nan), axis=1)


def _same(a: Predictions, b: Predictions) -> None:
    """Both in order. Raises ValueError."""
    names = f"{a.name} and {b.name}"
    if a.aus != b.aus:
        raise ValueError(f"{names} judge different AUs")
    place = ("identity", "video", "frame")
    if len(a) != len(b) or any((getattr(a, name) != getattr(b, name)).any() for name in place):
        raise ValueError(f"{names} were not tested on the same frames ({len(a)} and {len(b)})")
    if np.logical_and.reduce([getattr(a, name)[1:] == getattr(a, name)[:-1] for name in place]).any():
        raise ValueError(f"{names} were tested more than once on the same frame")
    if (a.au != b.au).any():
        raise ValueError(f"{names} were tested with different labels")


def _t(difference: np.ndarray) -> tuple[float, float]:
    """T and two-sided p of the mean of `difference` [N] against 0: 0 and 1 where all are 0, nan for fewer than two."""
    number = len(difference)
    if number < 2:
        return float("nan"), float("nan")
    if not difference.any():
        return 0.0, 1.0
    average, error = difference.mean(), difference.std(ddof=1) / np.sqrt(number)
    t = average / error if error else np.copysign(np.inf, average)
    return float(t), max(float(2 * stdtr(number - 1, -abs(t))), SMALLEST)


def _cells(row: Compared) -> list[str]:
    own = [_shown(100 * row.f1, ".1f"), _shown(row.distance, ".3f"), _shown(100 * row.dependency, ".1f")]
    if row.test is None:
        return [*own, *["-"] * (len(HEADINGS) - len(own))]
    test = row.test
    return [
        *own, _shown(100 * test.difference, "+.2f"), _shown(test.frames_t, ".2f"), _p(test.frames_p),
        _shown(test.subjects_t, ".2f"), _p(test.subjects_p),
    ]  # fmt: skip


def _p(value: float) -> str:
    return "< 1e-300" if value < 1e-300 else _shown(value, ".2g")


def _shown(value: float, form: str) -> str:
    return "-" if np.isnan(value) else f"{value:{form}}"
