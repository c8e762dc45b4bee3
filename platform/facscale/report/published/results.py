"""Rows of published tables, by data set, paper and method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

from facscale.report.published.tables import PublishedTable, load_aliases, load_papers, load_tables, read_records

if TYPE_CHECKING:  # `facscale published` needs neither numpy nor scipy
    from facscale.evaluate import MethodScores

Heading = int | str  # an AU; or an expression, or the heading of any other column
METHOD_CELL = re.compile(r"(?P<method>.+?)(?: \[(?P<reference>\d+)\])?(?P<quoted>\*)?(?: \((?P<own>[Oo]urs)\))?")


@dataclass(frozen=True)
class PublishedResult:
    """One row of one published table. `cells` and `printed` have the digits that the paper prints."""

    file: str  # in `tables/`, without its extension
    method: str  # as the paper calls it, without marks
    data: str  # the data set tested on; "" where the numbers belong to none
    cells: Mapping[Heading, Decimal] = field(hash=False)  # without those printed as "-"
    printed: Decimal | None  # the average as printed
    reference: str = ""  # the paper's own number for where the method is from
    is_quoted: bool = False  # marked as quoted from there
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> PublishedTable:
        """The table's entry in the index."""
        return load_tables()[self.file]

    @property
    def paper(self) -> str:
        """'CLP'."""
        return load_papers()[self.source.paper].name

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
        return self.source.find_kind(self.method)

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
        """Numbers by AU (or expression, or heading), in the table's unit: F1 and accuracy in per cent."""
        return {heading: float(cell) for heading, cell in self.cells.items()}

    @property
    def aus(self) -> tuple[int, ...]:
        """The AUs in printed order; none where the columns are something else."""
        return tuple(heading for heading in self.cells if isinstance(heading, int))

    @property
    def has_f1_by_au(self) -> bool:
        """Whether its numbers can stand in a table of F1 by AU."""
        return bool(self.aus) and self.metric == "F1"

    @property
    def mean(self) -> float | None:
        """Mean of the printed numbers, whatever average is printed; None where their mean has no meaning."""
        if not (self.cells and self.source.averaged):
            return None
        return float(sum(self.cells.values())) / len(self.cells)

    def to_scores(self) -> MethodScores:
        """The row for our tables and figures. An impossible F1 (misprinted, over 100) becomes undefined.

        Raises ValueError for a row without F1 by AU.
        """
        from facscale.evaluate import MethodScores

        if not self.aus:
            raise ValueError(f"{self.name} has no F1 by AU")
        f1 = {au: value if value <= 100 else float("nan") for au, value in self.values.items() if isinstance(au, int)}
        paper = load_papers()[self.source.paper]
        quoted = f", quoted from its [{self.reference}]" if self.is_quoted else ""
        source = f"{paper.citation}, {paper.venue}, {self.table}{quoted}"
        protocol = f"{self.source.place}: {self.source.protocol}" if self.source.protocol else ""
        return MethodScores.from_paper(self.name, f1=f1, source=source, protocol=protocol)


def find_results(
    data: str | None = None, *, paper: str | None = None, method: str | None = None
) -> list[PublishedResult]:
    """All rows of a data set, a paper and a method, where given; in the papers' order. Unknown names find nothing.

    Case and punctuation are ignored: "bp4d" is BP4D ("synthetic_bp4d" is not). A method is one of ours ("clp"), a row of our
    jobs ("AU-FAN", "RoII only"), or a paper's name for it ("Lu et al.").
    """
    alias = method and resolve_alias(method)
    return [
        result
        for result in load_results()
        if (data is None or normalize_name(result.data) == normalize_name(data) != "")
        and (paper is None or normalize_name(result.paper) == normalize_name(paper))
        and (alias is None or resolve_alias(result.method) == alias)
    ]


@cache
def load_results() -> tuple[PublishedResult, ...]:
    """Every row of every table."""
    return tuple(_parse_record(file, record) for file in load_tables() for record in read_records(file))


def normalize_name(name: str) -> str:
    """Lower case without punctuation, except for the plus: BP4D+ is another data set than BP4D."""
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter == "+")


def format_heading(heading: Heading) -> str:
    """'AU12' for an AU; other headings stay as they are."""
    return f"AU{heading}" if isinstance(heading, int) else heading


def resolve_alias(method: str) -> str:
    """The normalized name that all names of a method share."""
    return _load_alias_map().get(normalize_name(method), normalize_name(method))


@cache
def _load_alias_map() -> dict[str, str]:
    return {
        normalize_name(name): normalize_name(ours)
        for ours, aliases in load_aliases().items()
        for name in (ours, *aliases)
    }


def _parse_record(file: str, record: dict[str, str]) -> PublishedResult:
    table, method = load_tables()[file], METHOD_CELL.fullmatch(record["method"])
    assert method
    numbers = {
        heading: Decimal(cell)
        for heading, cell in record.items()
        if cell and heading not in {"method", "data", *table.settings}
    }
    return PublishedResult(
        file,
        method["method"],
        record.get("data", table.data),
        {_parse_heading(heading): number for heading, number in numbers.items() if heading != "Average"},
        numbers.get("Average"),
        reference=method["reference"] or "",
        is_quoted=bool(method["quoted"]),
        settings=tuple((heading, record[heading]) for heading in table.settings),
    )


def _parse_heading(printed: str) -> Heading:
    return int(printed[2:]) if re.fullmatch(r"AU\d+", printed) else printed
