"""The index, and the files that it lists."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from facscale.spec import Block

PLACE = files(__package__)


class Paper(Block):
    """Where tables stand."""

    name: str
    citation: str
    venue: str
    doi: str = ""


class Source(Block):
    """One published table, or the numbers that a section's text gives; `index.toml` explains the entries."""

    paper: str
    number: str  # "Table I", or "text"
    section: str
    data: str = ""  # "" where each row names its own, or none has any
    labels: str = ""
    metric: str
    unit: str = ""
    protocol: str = ""
    averaged: bool = True  # the average is that of the row's other numbers
    settings: tuple[str, ...] = ()
    kinds: Mapping[str, tuple[str, ...]] = {}
    notes: Mapping[str, str] = {}
    remarks: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """'CLP, Table I', or 'CLP, Section IV-A'."""
        number = f"Section {self.section}" if self.number == "text" else self.number
        return f"{papers()[self.paper].name}, {number}"

    def kind(self, method: str) -> str:
        """Supervised, self-supervised, semi-supervised or descriptor; '' where the table's rows are no methods."""
        return next((kind for kind, methods in self.kinds.items() if method in methods), "")


def papers() -> Mapping[str, Paper]:
    """The papers by the names of our methods."""
    return _index()[0]


def sources() -> Mapping[str, Source]:
    """All tables by the names of their files."""
    return _index()[1]


def aliases() -> Mapping[str, tuple[str, ...]]:
    """Our names of methods, and what papers and jobs call them."""
    return _index()[2]


def records(name: str) -> Iterator[dict[str, str]]:
    """The rows of one table's file, by heading."""
    text = (PLACE / "tables" / f"{name}.csv").read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines(), strict=True)


@cache
def _index() -> tuple[Mapping[str, Paper], Mapping[str, Source], Mapping[str, tuple[str, ...]]]:
    index: dict[str, Any] = tomllib.loads((PLACE / "index.toml").read_text(encoding="utf-8"))
    return (
        {name: Paper.model_validate(entry) for name, entry in index["papers"].items()},
        {name: Source.model_validate(entry) for name, entry in index["tables"].items()},
        {name: tuple(also) for name, also in index["names"].items()},
    )
