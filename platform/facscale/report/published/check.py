"""Checks of the papers' numbers: misprinted averages, rows that contradict each other, and rows that repeat each other.

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

from facscale.report.published.results import (
    Heading,
    PublishedResult,
    format_heading,
    load_results,
    normalize_name,
    resolve_alias,
)

AVERAGE = "Average"
HIGHEST = 100  # F1 or accuracy, in per cent


class Misprint(NamedTuple):
    """A printed number that contradicts the others of its row."""

    result: PublishedResult
    heading: Heading  # AVERAGE, or the AU whose number is impossible
    printed: Decimal
    expected: float  # from the row's other printed numbers
    tolerance: float  # rounding may move `expected` by this much

    @property
    def message(self) -> str:
        """'Average 62.1, but its numbers give 62.90 (±0.1 by rounding).', and the note in the index."""
        others = "its numbers" if self.heading == AVERAGE else "the average and the others"
        note = self.result.source.notes.get(self.result.method, "")
        expected = f"{self.expected:.2f} (±{self.tolerance:.2g} by rounding)"
        return f"{format_heading(self.heading)} {self.printed}, but {others} give {expected}. {note}".strip()

    def __str__(self) -> str:
        """'CLP, Table I: SRERL: Average 62.1, but ...'."""
        return f"{self.result.source.place}: {self.result.method}: {self.message}"


class Contradiction(NamedTuple):
    """Different numbers for one method on one data set, trained on the same labels."""

    method: str
    data: str
    numbers: dict[Heading, tuple[tuple[PublishedResult, Decimal], ...]]  # those that differ, with where they stand

    def __str__(self) -> str:
        """'SRERL on BP4D: Average 62.1 (CLP, Table I), 62.9 (RTATL, Table 2).'."""
        differences = [
            f"{format_heading(heading)} {', '.join(f'{number} ({result.source.place})' for result, number in numbers)}"
            for heading, numbers in self.numbers.items()
        ]
        return f"{self.method} on {self.data}: {'; '.join(differences)}."


class RepeatedResult(NamedTuple):
    """Different methods with the same numbers for every AU."""

    results: tuple[PublishedResult, ...]

    def __str__(self) -> str:
        """'On DISFA the same numbers for SimSiam (CLP, Table II) and VGG emotion (TCAE, Table 2).'."""
        names = " and ".join(result.name for result in self.results)
        return f"On {self.results[0].data} the same numbers for {names}."


def find_misprints() -> list[Misprint]:
    """All misprints, in the papers' order."""
    return [misprint for result in load_results() if (misprint := find_misprint(result))]


def find_misprint(result: PublishedResult) -> Misprint | None:
    """The misprint of a row; None where there is none, or where the row has no average to check."""
    if result.mean is None or result.printed is None:
        return None
    average, half, n = Fraction(result.printed), _half_unit(result.printed), len(result.cells)
    for heading, cell in result.cells.items():
        if cell > HIGHEST:
            others = [number for other, number in result.cells.items() if other != heading]
            rest, slack = sum(map(Fraction, others), Fraction()), sum(map(_half_unit, others), n * half)
            return Misprint(result, heading, cell, float(n * average - rest), float(slack))
    mean = sum(map(Fraction, result.cells.values()), Fraction()) / n
    tolerance = sum(map(_half_unit, result.cells.values()), Fraction()) / n + half
    if abs(mean - average) <= tolerance:
        return None
    return Misprint(result, AVERAGE, result.printed, float(mean), float(tolerance))


def find_contradictions() -> list[Contradiction]:
    """Rows of one method that should have the same numbers and do not."""
    groups: dict[tuple[str, str, str, str], list[PublishedResult]] = defaultdict(list)
    for result in load_results():
        if result.data and not result.settings:  # a row with settings is a variant
            key = resolve_alias(result.method), normalize_name(result.data), result.labels, result.source.unit
            groups[key].append(result)
    return [contradiction for group in groups.values() if (contradiction := _compare_rows(group))]


def find_repeats() -> list[RepeatedResult]:
    """Rows of different methods with the same number for every AU, which cannot be chance."""
    rows = sorted((result for result in load_results() if result.aus), key=_content_key)
    groups = [tuple(group) for _, group in groupby(rows, key=_content_key)]
    return [RepeatedResult(group) for group in groups if len({resolve_alias(result.method) for result in group}) > 1]


def _compare_rows(group: list[PublishedResult]) -> Contradiction | None:
    numbers: dict[Heading, list[tuple[PublishedResult, Decimal]]] = defaultdict(list)
    for result in group:
        average = {} if result.printed is None else {AVERAGE: result.printed}
        for heading, number in (*result.cells.items(), *average.items()):
            numbers[heading].append((result, number))
    differing = {
        heading: tuple(printed) for heading, printed in numbers.items() if len({number for _, number in printed}) > 1
    }
    return Contradiction(group[0].method, group[0].data, differing) if differing else None


def _content_key(result: PublishedResult) -> tuple[str, tuple[tuple[int, Decimal], ...]]:
    return normalize_name(result.data), tuple((au, result.cells[au]) for au in result.aus)


def _half_unit(printed: Decimal) -> Fraction:
    """Half a unit of a number's last digit."""
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int)
    return Fraction(10) ** exponent / 2
