"""Rows of published tables, found by data set, paper and method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

from facscale.report.published.tables import Source, aliases, papers, records, sources

if TYPE_CHECKING:  # evaluate brings torch
    from facscale.evaluate import Row

Heading = int | str  # an AU; or an expression, or what else a column is headed
MARKED = re.compile(r"(?P<method>.+?)(?: \[(?P<reference>\d+)\])?(?P<quoted>\*)?(?: \((?P<own>[Oo]urs)\))?")


@dataclass(frozen=True)
class Line:
    """One row of one published table. `cells` and `printed` have the digits that the paper prints."""

    file: str  # of `tables/`, without its ending
    method: str  # as the paper calls it, without marks
    data: str  # the data set tested on; "" where the numbers belong to none
    cells: Mapping[Heading, Decimal] = field(hash=False)  # what is printed as "-" is left out
    printed: Decimal | None  # the average as printed
    reference: str = ""  # the paper's own number for where the method is from
    quoted: bool = False  # marked as quoted from there
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> Source:
        """The table's entry in the index."""
        return sources()[self.file]

    @property
    def paper(self) -> str:
        """'CLP'."""
        return papers()[self.source.paper].name

    @property
    def table(self) -> str:
        """'Table I', or 'text'."""
        return self.source.number

    @property
    def metric(self) -> str:
        """'F1', 'accuracy', ..."""
        return self.source.metric

    @property
    def kind(self) -> str:
        """Supervised, self-supervised, semi-supervised or descriptor."""
        return self.source.kind(self.method)

    @property
    def labels(self) -> str:
        """The data set whose labels were trained on."""
        return self.source.labels or self.data

    @property
    def name(self) -> str:
        """'CLP (CLP, Table I)'."""
        return f"{self.method} ({self.source.place})"

    @property
    def values(self) -> dict[Heading, float]:
        """By AU (or expression, or heading), in the table's unit: F1 and accuracy in per cent."""
        return {heading: float(cell) for heading, cell in self.cells.items()}

    @property
    def aus(self) -> tuple[int, ...]:
        """The AUs in printed order; none where the columns are something else."""
        return tuple(heading for heading in self.cells if isinstance(heading, int))

    @property
    def mean(self) -> float | None:
        """What the printed numbers give, whatever average is printed; None where their mean means nothing."""
        if not (self.cells and self.source.averaged):
            return None
        return float(sum(self.cells.values())) / len(self.cells)

    def row(self) -> Row:
        """For our tables and figures. An F1 that is none (misprinted, over 100) is left undefined.

        Raises ValueError for a row without F1 by AU.
        """
        from facscale.evaluate import Row

        if not self.aus:
            raise ValueError(f"{self.name} has no F1 by AU")
        f1 = {au: value if value <= 100 else float("nan") for au, value in self.values.items() if isinstance(au, int)}
        paper = papers()[self.source.paper]
        quoted = f", quoted from its [{self.reference}]" if self.quoted else ""
        return Row.published(self.name, f1=f1, source=f"{paper.citation}, {paper.venue}, {self.table}{quoted}")


def published(data: str | None = None, *, paper: str | None = None, method: str | None = None) -> list[Line]:
    """All rows of a data set, a paper, a method; in the papers' order.

    Capitals and punctuation do not count: "bp4d" is BP4D ("synthetic_bp4d" is not). A method is one of ours ("clp"), a
    row of our jobs ("AU-FAN", "RoII only"), or what a paper calls it ("Lu et al."). An unknown name finds nothing.
    """
    wanted = method and canonical(method)
    return [
        line
        for line in lines()
        if (data is None or loose(line.data) == loose(data) != "")
        and (paper is None or loose(line.paper) == loose(paper))
        and (wanted is None or canonical(line.method) == wanted)
    ]


@cache
def lines() -> tuple[Line, ...]:
    """Every row of every table."""
    return tuple(_line(name, record) for name in sources() for record in records(name))


def loose(name: str) -> str:
    """Without capitals and punctuation, but for the plus: BP4D+ is another data set than BP4D."""
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter == "+")


def shown(heading: Heading) -> str:
    """'AU12'."""
    return f"AU{heading}" if isinstance(heading, int) else heading


def canonical(method: str) -> str:
    """One name for all that a method is called."""
    return _canonical().get(loose(method), loose(method))


@cache
def _canonical() -> dict[str, str]:
    return {loose(name): loose(ours) for ours, also in aliases().items() for name in (ours, *also)}


def _line(name: str, record: dict[str, str]) -> Line:
    source, marked = sources()[name], MARKED.fullmatch(record["method"])
    assert marked
    numbers = {
        heading: Decimal(cell)
        for heading, cell in record.items()
        if cell and heading not in {"method", "data", *source.settings}
    }
    return Line(
        name,
        marked["method"],
        record.get("data", source.data),
        {_heading(heading): number for heading, number in numbers.items() if heading != "Average"},
        numbers.get("Average"),
        reference=marked["reference"] or "",
        quoted=bool(marked["quoted"]),
        settings=tuple((heading, record[heading]) for heading in source.settings),
    )


def _heading(printed: str) -> Heading:
    return int(printed[2:]) if re.fullmatch(r"AU\d+", printed) else printed
