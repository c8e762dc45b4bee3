"""The table that every evaluation ends in: F1 of each AU, one row a method; terminal, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rich.table import Table as RichTable
from rich.text import Text

from facscale.evaluate.f1 import Counts, mean


@dataclass(frozen=True)
class Row:
    """One method. F1 lies in [0, 1] here and is shown times 100; nan where it is undefined."""

    name: str
    aus: tuple[int, ...]
    by_fold: np.ndarray  # [folds, n]; one line for a published row
    pooled: np.ndarray  # [n], from the counts of all folds together; nan where a paper gives none
    folds: tuple[str, ...]  # their names
    source: str = ""  # of the folds, or the paper
    seeds: int = 1  # trainings, whose folds stand one after the other

    @classmethod
    def counted(cls, name: str, *, aus: Sequence[int], counts: Counts, folds: Sequence[str], source: str = "") -> Row:
        """A measured row, from the counts [folds, n]."""
        return cls(name, tuple(aus), counts.f1, counts.pooled().f1, tuple(folds), source)

    @classmethod
    def published(cls, name: str, *, f1: Mapping[int, float], source: str) -> Row:
        """A row of a paper, F1 in per cent by AU."""
        values = np.array(list(f1.values()), float) / 100
        return cls(name, tuple(f1), values[None], np.full(len(values), np.nan), ("published",), source)

    @classmethod
    def repeated(cls, rows: Sequence[Row]) -> Row:
        """The same method trained with several seeds, as one row."""
        if len(rows) == 1:
            return rows[0]
        folds = tuple(f"seed{seed} {fold}" for seed, row in enumerate(rows) for fold in row.folds)
        by_fold, pooled = (
            np.concatenate([row.by_fold for row in rows]),
            mean(np.stack([row.pooled for row in rows]), axis=0),
        )
        return cls(rows[0].name, rows[0].aus, by_fold, pooled, folds, rows[0].source, len(rows))

    @property
    def f1(self) -> np.ndarray:
        """Mean over the folds in which it is defined [n]."""
        return mean(self.by_fold, axis=0)

    @property
    def mean(self) -> float:
        """Mean of `f1` over AUs; with every F1 defined, also the mean over folds of their means, as papers give it."""
        return float(mean(self.f1))

    @property
    def fold_means(self) -> np.ndarray:
        """Mean over AUs of each fold [folds]."""
        return mean(self.by_fold, axis=1)

    @property
    def undefined(self) -> tuple[str, ...]:
        """'AU9 in fold1': no positive frame to be found there."""
        if self.folds == ("published",):
            return ()
        gaps = zip(*np.nonzero(np.isnan(self.by_fold)), strict=True)
        return tuple(f"AU{self.aus[number]} in {self.folds[fold]}" for fold, number in gaps)

    def metrics(self) -> dict[str, float]:
        """Flat, for the tracker: f1/AU12, f1/mean, pooled/f1/AU12, fold0/f1/AU12, ... undefined ones left out."""
        found: dict[str, float] = {}
        lines = [("", self.f1), ("pooled/", self.pooled)]
        lines += [(f"{name}/", line) for name, line in zip(self.folds, self.by_fold, strict=True)]
        for prefix, line in lines:
            found |= {f"{prefix}f1/AU{au}": float(value) for au, value in zip(self.aus, line, strict=True)}
            found[f"{prefix}f1/mean"] = float(mean(line))
        return {name: value for name, value in found.items() if not np.isnan(value)}


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
