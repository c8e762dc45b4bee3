"""The table that every evaluation ends in: F1 of each AU, one row per method."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from facscale.evaluate.f1 import nanmean
from facscale.evaluate.scores import PROTOCOLS, MethodScores
from facscale.report.table import Cell, Column, ReportTable

SCHEMA = 1  # of the JSON
DIFFERENCE = ("difference",)  # the fold of a row that is a difference of two others


@dataclass(frozen=True)
class F1Table:
    """Several methods on the same AUs. `a + b` has the rows of both."""

    rows: tuple[MethodScores, ...]

    def __add__(self, other: F1Table) -> F1Table:
        return F1Table(self.rows + other.rows)

    @cached_property
    def aus(self) -> tuple[int, ...]:
        """All AUs of all rows, those of the first row first."""
        return tuple(dict.fromkeys(au for row in self.rows for au in row.aus))

    def build_table(self, *, title: str = "F1 x 100") -> ReportTable:
        """Mean F1 x 100 over the folds, for reading: AU1 AU2 ... Avg.

        Notes tell the protocol of each row, the caption the sources of the rows.
        """
        columns = [
            Column("", align="left", can_wrap=False),
            *(Column(name, number_format=".1f", can_wrap=False) for name in self._headings()),
        ]
        rows: list[list[Cell]] = [[row.name, *self._cells(row, row.f1)] for row in self.rows]
        return ReportTable(
            columns, rows, title=title, caption=self._caption(), notes=self.protocol_notes, should_mark_best=True
        )

    def build_fold_table(self) -> ReportTable:
        """F1 x 100 with two decimals for a CSV file: the mean, the pooled F1 and each fold of every method."""
        numbers = [Column(name, number_format=".2f") for name in self._headings()]
        columns = [Column("method"), Column("fold"), *numbers, Column("protocol")]
        cells: list[list[Cell]] = []
        for row in self.rows:
            lines = [("mean", row.f1), ("pooled", row.pooled), *zip(row.folds, row.by_fold, strict=True)]
            for fold, f1 in lines[:1] if row.is_published else lines:
                cells.append([row.name, fold, *self._cells(row, f1), "" if row.is_published else row.protocol])
        return ReportTable(columns, cells)

    def to_json(self) -> str:
        """Everything, F1 in [0, 1], undefined values as null; `from_json` reads it back."""
        rows = [_to_plain(row) for row in self.rows]
        return json.dumps({"schema": SCHEMA, "rows": rows}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> F1Table:
        """Read what `to_json` wrote."""
        return cls(tuple(_from_plain(entry) for entry in json.loads(text)["rows"]))

    @property
    def protocol_notes(self) -> tuple[str, ...]:
        """One sentence for each protocol, with the measured rows that follow it; none where no protocol was recorded."""
        names: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.is_published and row.folds != DIFFERENCE:
                names.setdefault(row.protocol, []).append(row.name)
        texts = {protocol: PROTOCOLS.get(protocol, "protocol not recorded") for protocol in names}
        notes = (f"{texts[protocol]}: {', '.join(rows)}" for protocol, rows in names.items())
        return tuple(notes) if any(names) else ()

    def _headings(self) -> list[str]:
        return [*(f"AU{au}" for au in self.aus), "Avg"]

    def _cells(self, row: MethodScores, f1: np.ndarray) -> list[float]:
        """F1 [n] of the row's AUs as cells of the table's AUs, x 100, and their mean."""
        values = dict(zip(row.aus, 100 * f1, strict=True))
        return [*(float(values.get(au, np.nan)) for au in self.aus), 100 * float(nanmean(f1))]

    def _caption(self) -> str:
        papers = [f"{row.name}: {row.source}" for row in self.rows if row.is_published]
        protocols = dict.fromkeys(row.protocol for row in self.rows if row.is_published and row.protocol)
        splits = dict.fromkeys(f"folds: {row.source}" for row in self.rows if not row.is_published and row.source)
        gaps = [
            f"{row.name}: no positive frame of {', '.join(row.undefined)}; left out"
            for row in self.rows
            if row.undefined
        ]
        return "\n".join([*splits, *papers, *protocols, *gaps])


def _to_plain(row: MethodScores) -> dict[str, Any]:
    return {
        "name": row.name,
        "source": row.source,
        "seeds": row.seeds,
        "protocol": row.protocol,
        "aus": list(row.aus),
        "folds": list(row.folds),
        "mean": _replace_nan(np.array([row.mean]))[0],
        "f1": _replace_nan(row.f1),
        "by_fold": _replace_nan(row.by_fold),
        "pooled": _replace_nan(row.pooled),
    }


def _replace_nan(values: np.ndarray) -> list[Any]:
    """Nested lists of floats, with None for nan."""
    return [_replace_nan(line) if np.ndim(line) else None if np.isnan(line) else float(line) for line in values]


def _from_plain(entry: dict[str, Any]) -> MethodScores:
    by_fold, pooled = np.array(entry["by_fold"], float), np.array(entry["pooled"], float)  # null becomes nan
    return MethodScores(
        entry["name"],
        tuple(entry["aus"]),
        by_fold,
        pooled,
        tuple(entry["folds"]),
        entry["source"],
        entry["seeds"],
        entry.get("protocol", ""),
    )
