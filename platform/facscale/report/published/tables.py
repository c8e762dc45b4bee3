"""The index of published tables, and the files that it lists."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from pydantic import PositiveInt

from facscale.spec import Block

FOLDER = files(__package__)


class Paper(Block):
    """A paper whose tables are in the index."""

    name: str
    citation: str
    venue: str
    doi: str = ""


class PublishedTable(Block):
    """One published table, or the numbers in the text of a section; `index.toml` explains the entries."""

    paper: str
    number: str  # "Table I", or "text"
    section: str
    data: str = ""  # "" where each row names its own data set, or none has any
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
        return f"{load_papers()[self.paper].name}, {number}"

    def find_kind(self, method: str) -> str:
        """Supervised, self-supervised, semi-supervised or descriptor; '' where the table's rows are not methods."""
        return next((kind for kind, methods in self.kinds.items() if method in methods), "")


class PublishedTraining(Block):
    """How long a paper or its authors' code trains a method."""

    steps: PositiveInt
    source: str  # where the number is from, or how it follows from what is there


def load_trainings() -> Mapping[str, PublishedTraining]:
    """The trainings of which the length is published, by our name of the method."""
    return _load_index().trainings


def load_papers() -> Mapping[str, Paper]:
    """The papers by the names of our methods."""
    return _load_index().papers


def load_tables() -> Mapping[str, PublishedTable]:
    """All tables by the names of their files."""
    return _load_index().tables


def load_aliases() -> Mapping[str, tuple[str, ...]]:
    """Names of methods in papers and jobs, by our name."""
    return _load_index().aliases


def read_records(file: str) -> Iterator[dict[str, str]]:
    """The rows of one table's file, by heading."""
    text = (FOLDER / "tables" / f"{file}.csv").read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines(), strict=True)


class _Index(NamedTuple):
    papers: Mapping[str, Paper]
    tables: Mapping[str, PublishedTable]
    aliases: Mapping[str, tuple[str, ...]]
    trainings: Mapping[str, PublishedTraining]


@cache
def _load_index() -> _Index:
    index: dict[str, Any] = tomllib.loads((FOLDER / "index.toml").read_text(encoding="utf-8"))
    return _Index(
        papers={name: Paper.model_validate(entry) for name, entry in index["papers"].items()},
        tables={name: PublishedTable.model_validate(entry) for name, entry in index["tables"].items()},
        aliases={name: tuple(aliases) for name, aliases in index["names"].items()},
        trainings={name: PublishedTraining.model_validate(entry) for name, entry in index["trainings"].items()},
    )
