"""One line a method: what each encoder is worth beside its F1, and what its training cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table as RichTable

Figures = Mapping[str, float]  # one training's, by the names that the tracker takes


class Column(NamedTuple):
    """How a figure is shown."""

    heading: str
    factor: float = 1.0
    decimals: int = 1


COLUMNS = {
    "f1/mean": Column("F1 x 100", 100),
    "encoder/au_f1": Column("AUs, rendered: F1 x 100", 100),
    "encoder/pose_r2": Column("pose: R2", decimals=2),
    "identity/accuracy": Column("identity, %", 100),
    "effective_rank": Column("effective rank"),
    "recall/at_10": Column("recall at 10, %", 100),
    "seconds_per_step": Column("s a step", decimals=3),
    "peak_memory_gb": Column("peak GB", decimals=2),
}


class Summary:
    """Rows of figures, {method: one mapping for each of its seeds}; mean and sample standard deviation are shown."""

    def __init__(self, rows: Mapping[str, Sequence[Figures]], *, columns: Mapping[str, Column] = COLUMNS) -> None:
        """`columns`: what to show, where some row has it."""
        self.rows = rows
        self.columns = {
            name: column
            for name, column in columns.items()
            if any(name in figures for seeds in rows.values() for figures in seeds)
        }

    def rich(self, *, title: str) -> RichTable:
        """For the terminal."""
        table = RichTable(title=title, title_justify="left")
        table.add_column("", no_wrap=True)
        for column in self.columns.values():
            table.add_column(column.heading, justify="right")
        for row, seeds in self.rows.items():
            table.add_row(row, *(shown(values(seeds, name), column) for name, column in self.columns.items()))
        return table

    def markdown(self) -> str:
        """For a README."""
        lines = [["method", *(column.heading for column in self.columns.values())], ["---"] * (len(self.columns) + 1)]
        for row, seeds in self.rows.items():
            lines.append([row, *(shown(values(seeds, name), column) for name, column in self.columns.items())])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """One line a method and seed, every figure that there is, unrounded; what is missing is empty."""
        names = list(dict.fromkeys(name for seeds in self.rows.values() for figures in seeds for name in figures))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "training", *names])
        for row, seeds in self.rows.items():
            for number, figures in enumerate(seeds):
                writer.writerow([row, number, *(figures.get(name, "") for name in names)])
        return out.getvalue()


def values(seeds: Sequence[Figures], name: str) -> np.ndarray:
    """One figure of all seeds that have it."""
    return np.array([figures[name] for figures in seeds if name in figures], float)


def shown(found: np.ndarray, column: Column) -> str:
    """As in "35.6 ± 0.8"; "-" where there is none."""
    if not len(found):
        return "-"
    scaled = found * column.factor
    mean = f"{scaled.mean():.{column.decimals}f}"
    return f"{mean} ± {scaled.std(ddof=1):.{column.decimals}f}" if len(found) > 1 else mean
