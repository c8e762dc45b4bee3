"""Methods beside a first one (AUNet, section V.E, Table XII): how much better they are, and how sure that is.

The difference in F1 stands with its interval and in words (`bootstrap`), the paper's t-tests over errors beside it
(`ttests`). Each method is compared with the first one for itself: of twenty that are no better, one is told from it by
chance.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table as RichTable

from facscale.evaluate.bootstrap import Difference, difference
from facscale.evaluate.f1 import mean
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.relations import adjacency_distance, dependency_f1
from facscale.evaluate.ttests import TTest, paired_t

# pairs of AUs: the distance of their adjacency, and dependency F1; words short enough for a narrow terminal
HEADINGS = (
    "F1 x 100", "difference", "pairs: L2", "pairs: F1 x 100", "error x 100", "t, frames", "p, frames", "t, people",
    "p, people",
)  # fmt: skip
COLUMNS = ("f1", "f1_difference", "f1_low", "f1_high", "distance", "dependency", *TTest._fields)


@dataclass(frozen=True)
class Compared:
    """One method beside the first one, which has neither difference nor test."""

    name: str
    f1: float  # mean, as in the table of F1
    distance: float  # of co-occurrence
    dependency: float  # F1
    difference: Difference | None = None  # its F1 minus the first one's
    test: TTest | None = None


@dataclass(frozen=True)
class Comparison:
    """Methods tested on the same frames. As in the paper, t is negative for one that errs less than the first."""

    rows: tuple[Compared, ...]

    @property
    def verdicts(self) -> tuple[str, ...]:
        """In words, a line for each method but the first."""
        return tuple(row.difference.verdict() for row in self.rows if row.difference)

    def rich(self, *, title: str) -> RichTable:
        """For the terminal."""
        about = f"t < 0: errs less than {self.rows[0].name}; frames of a video are not independent: believe p, people"
        caption = "\n".join([*self.verdicts, about])
        table = RichTable(title=title, title_justify="left", caption=caption, caption_justify="left")
        table.add_column("", no_wrap=True)
        for heading in HEADINGS:
            table.add_column(heading, justify="right", no_wrap=heading == "difference")
        for row in self.rows:
            table.add_row(row.name, *_cells(row))
        return table

    def markdown(self) -> str:
        """For a README."""
        lines = [["method", *HEADINGS], ["---"] * (len(HEADINGS) + 1), *([row.name, *_cells(row)] for row in self.rows)]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return table + "".join(f"\n- {verdict}" for verdict in self.verdicts) + "\n"

    def csv(self) -> str:
        """One line a method, unrounded, F1 in [0, 1], and the verdict; what is undefined is empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", *COLUMNS, "verdict"])
        for row in self.rows:
            gap = row.difference.f1 if row.difference else [np.nan] * 3
            values = [row.f1, *gap, row.distance, row.dependency, *(row.test or [np.nan] * len(TTest._fields))]
            said = row.difference.verdict() if row.difference else ""
            writer.writerow([row.name, *("" if np.isnan(value) else value for value in values), said])
        return out.getvalue()


def compared(methods: Sequence[Sequence[Predictions]], *, threshold: float) -> Comparison:
    """Every method by itself and against the first one; a method is its trainings, one for each seed.

    F1 and its difference are those of all seeds, everything else is the first one's. Raises ValueError where the frames,
    the AUs or the labels are not the same.
    """
    first, *others = methods
    alone = [_alone(method, threshold=threshold) for method in methods]
    rows = [alone[0]]
    for row, method in zip(alone[1:], others, strict=True):
        rows.append(
            replace(row, test=paired_t(first[0], method[0]), difference=difference(first, method, threshold=threshold))
        )
    return Comparison(tuple(rows))


def _alone(trainings: Sequence[Predictions], *, threshold: float) -> Compared:
    first = trainings[0]
    return Compared(
        first.name,
        f1=float(mean(np.array([one.row(threshold).mean for one in trainings]))),
        distance=adjacency_distance(first, threshold=threshold),
        dependency=dependency_f1(first, threshold=threshold),
    )


def _cells(row: Compared) -> list[str]:
    pairs = [_shown(row.distance, ".3f"), _shown(100 * row.dependency, ".1f")]
    gap = row.difference.f1.shown(sign="+") if row.difference else "-"
    own = [_shown(100 * row.f1, ".1f"), gap, *pairs]
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
