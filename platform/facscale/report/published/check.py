"""Where the papers' numbers do not agree with themselves, or with each other.

A printed average is right if any numbers that round to the printed ones can have an average that rounds to it. Each
printed number is up to half a unit of its last digit away from what was rounded, so the mean of n of them is up to the
mean of their halves away; the average adds its own half. With one decimal everywhere that is 0.05 + 0.05 = 0.1, both
ends included: a five may have been rounded up or down.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from typing import NamedTuple

from facscale.report.published.lines import Heading, Line, canonical, lines, loose, shown

AVERAGE = "Average"
HIGHEST = 100  # F1 or accuracy, in per cent


class Misprint(NamedTuple):
    """A printed number that the others of its row do not allow."""

    line: Line
    what: Heading  # AVERAGE, or the AU whose number is none
    printed: Decimal
    given: float  # what the row's other printed numbers give instead
    tolerance: float  # rounding may move `given` by this much

    @property
    def told(self) -> str:
        """'Average 62.1, but its numbers give 62.90 (±0.1 by rounding).' and what the index notes."""
        others = "its numbers" if self.what == AVERAGE else "the average and the others"
        note = self.line.source.notes.get(self.line.method, "")
        found = f"{self.given:.2f} (±{self.tolerance:.2g} by rounding)"
        return f"{shown(self.what)} {self.printed}, but {others} give {found}. {note}".strip()

    def __str__(self) -> str:
        """'CLP, Table I: SRERL: Average 62.1, but ...'."""
        return f"{self.line.source.place}: {self.line.method}: {self.told}"


class Contradiction(NamedTuple):
    """One method, one data set, trained on the same labels, and different numbers."""

    method: str
    data: str
    numbers: dict[Heading, tuple[tuple[Line, Decimal], ...]]  # those that differ, with where they stand

    def __str__(self) -> str:
        """'SRERL on BP4D: Average 62.1 (CLP, Table I), 62.9 (RTATL, Table 2).'."""
        told = [
            f"{shown(heading)} {', '.join(f'{number} ({line.source.place})' for line, number in printed)}"
            for heading, printed in self.numbers.items()
        ]
        return f"{self.method} on {self.data}: {'; '.join(told)}."


class Repeat(NamedTuple):
    """Different methods with the same numbers for every AU."""

    lines: tuple[Line, ...]

    def __str__(self) -> str:
        """'On DISFA the same numbers for SimSiam (CLP, Table II) and VGG emotion (TCAE, Table 2).'."""
        return f"On {self.lines[0].data} the same numbers for {' and '.join(line.name for line in self.lines)}."


def misprints() -> list[Misprint]:
    """All of them, in the papers' order."""
    return [found for line in lines() if (found := misprint(line))]


def misprint(line: Line) -> Misprint | None:
    """What is wrong with a row; None where nothing is, or where nothing can be told."""
    if line.mean is None or line.printed is None:
        return None
    average, half, n = Fraction(line.printed), _half(line.printed), len(line.cells)
    for heading, cell in line.cells.items():
        if cell > HIGHEST:
            others = [number for other, number in line.cells.items() if other != heading]
            rest, slack = sum(map(Fraction, others), Fraction()), sum(map(_half, others), n * half)
            return Misprint(line, heading, cell, float(n * average - rest), float(slack))
    mean = sum(map(Fraction, line.cells.values()), Fraction()) / n
    tolerance = sum(map(_half, line.cells.values()), Fraction()) / n + half
    if abs(mean - average) <= tolerance:
        return None
    return Misprint(line, AVERAGE, line.printed, float(mean), float(tolerance))


def contradictions() -> list[Contradiction]:
    """Rows of one method that should be the same and are not."""
    alike: dict[tuple[str, str, str, str], list[Line]] = defaultdict(list)
    for line in lines():
        if line.data and not line.settings:  # a setting says that the row is a variant
            alike[canonical(line.method), loose(line.data), line.labels, line.source.unit].append(line)
    return [found for group in alike.values() if (found := _contradiction(group))]


def repeats() -> list[Repeat]:
    """Rows of different methods that are the same in every AU, which is no chance."""
    alike = sorted((line for line in lines() if line.aus), key=_content)
    groups = [tuple(group) for _, group in groupby(alike, key=_content)]
    return [Repeat(group) for group in groups if len({canonical(line.method) for line in group}) > 1]


def _contradiction(group: list[Line]) -> Contradiction | None:
    numbers: dict[Heading, list[tuple[Line, Decimal]]] = defaultdict(list)
    for line in group:
        average = {} if line.printed is None else {AVERAGE: line.printed}
        for heading, number in (*line.cells.items(), *average.items()):
            numbers[heading].append((line, number))
    differing = {what: tuple(found) for what, found in numbers.items() if len({number for _, number in found}) > 1}
    return Contradiction(group[0].method, group[0].data, differing) if differing else None


def _content(line: Line) -> tuple[str, tuple[tuple[int, Decimal], ...]]:
    return loose(line.data), tuple((au, line.cells[au]) for au in line.aus)


def _half(printed: Decimal) -> Fraction:
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int)
    return Fraction(10) ** exponent / 2
