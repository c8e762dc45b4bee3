"""The table that every evaluation ends in: F1 of each AU, one row a method; terminal, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rich.table import Table as RichTable
from rich.text import Text

from facscale.evaluate.f1 import mean
from facscale.evaluate.scores import Row


@dataclass(frozen=True)
class Table:
    """Several methods on the same AUs. `a + b` puts their rows below each other."""

    rows: tuple[Row, ...]

    def __add__(self, other: Table) -> Table:
        return Table(self.rows + other.rows)

    @cached_property
    def aus(self) -> tuple[int, ...]:
        """All AUs of all rows, those of the first row first."""
        return tuple(dict.fromkeys(au for row in self.rows for au in row.aus))

    def rich(self, *, title: str = "F1 x 100") -> RichTable:
        """For the terminal: AU1 AU2 ... Avg, the best of each column bold, undefined values as a dash."""
        table = RichTable(title=title, title_justify="left", caption=self._caption(), caption_justify="left")
        table.add_column("", no_wrap=True)
        for name in (*(f"AU{au}" for au in self.aus), "Avg"):
            table.add_column(name, justify="right", no_wrap=True)
        cells = np.array([self._line(row) for row in self.rows]).round(1)
        best = np.array([np.nanmax(column) if (~np.isnan(column)).any() else np.nan for column in cells.T])
        for row, line in zip(self.rows, cells, strict=True):
            shown = [_cell(value, best=value == top and len(cells) > 1) for value, top in zip(line, best, strict=True)]
            table.add_row(row.name, *shown)
        return table

    def csv(self) -> str:
        """One line a method and fold (and "mean" and "pooled"), F1 x 100 with two decimals, undefined cells empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "fold", *(f"AU{au}" for au in self.aus), "Avg"])
        for row in self.rows:
            lines = [("mean", row.f1), ("pooled", row.pooled), *zip(row.folds, row.by_fold, strict=True)]
            for fold, line in lines[: 1 if row.folds == ("published",) else None]:
                values = dict(zip(row.aus, line, strict=True))
                cells = [values.get(au, np.nan) for au in self.aus] + [float(mean(line))]
                writer.writerow([row.name, fold, *("" if np.isnan(cell) else f"{100 * cell:.2f}" for cell in cells)])
        return out.getvalue()

    def markdown(self) -> str:
        """As `rich` shows it, for a page."""
        head = ["", *(f"AU{au}" for au in self.aus), "Avg"]
        lines = [head, ["---", *["---:"] * (len(head) - 1)]]
        lines += [[row.name, *(_cell(value, best=False).plain for value in self._line(row))] for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def json(self) -> str:
        """Everything, F1 in [0, 1], undefined values as null; `Table.read` takes it back."""
        return json.dumps({"schema": 1, "rows": [_plain(row) for row in self.rows]}, indent=1, allow_nan=False)

    @classmethod
    def read(cls, text: str) -> Table:
        """The table that `json` wrote."""
        return cls(tuple(_row(entry) for entry in json.loads(text)["rows"]))

    def _line(self, row: Row) -> list[float]:
        values = dict(zip(row.aus, row.f1 * 100, strict=True))
        return [*(float(values.get(au, np.nan)) for au in self.aus), row.mean * 100]

    def _caption(self) -> str | None:
        papers = [f"{row.name}: {row.source}" for row in self.rows if row.folds == ("published",)]
        splits = dict.fromkeys(
            f"folds: {row.source}" for row in self.rows if row.folds != ("published",) and row.source
        )
        gaps = [
            f"{row.name}: no positive frame of {', '.join(row.undefined)}; left out"
            for row in self.rows
            if row.undefined
        ]
        return "\n".join([*splits, *papers, *gaps]) or None


def _cell(value: float, *, best: bool) -> Text:
    return Text("-" if np.isnan(value) else f"{value:.1f}", style="bold" if best else "")


def _plain(row: Row) -> dict[str, Any]:
    def bare(values: np.ndarray) -> list[Any]:
        return [bare(line) if np.ndim(line) else None if np.isnan(line) else float(line) for line in values]

    return {
        "name": row.name, "source": row.source, "seeds": row.seeds, "aus": list(row.aus), "folds": list(row.folds), "mean": bare(np.array([row.mean]))[0],
        "f1": bare(row.f1), "by_fold": bare(row.by_fold), "pooled": bare(row.pooled),
    }  # fmt: skip


def _row(entry: dict[str, Any]) -> Row:
    by_fold, pooled = np.array(entry["by_fold"], float), np.array(entry["pooled"], float)  # null becomes nan
    return Row(
        entry["name"], tuple(entry["aus"]), by_fold, pooled, tuple(entry["folds"]), entry["source"], entry["seeds"]
    )
