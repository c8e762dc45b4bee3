"""The cross-data-set matrix of each method: trained on one data set, tested on another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from facscale.report.figures import COLOURS, INK
from facscale.report.table import Cell, Column, ReportTable

CELL_INCHES = 0.75


class CrossDatasetScore(NamedTuple):
    """F1 of one method, trained on one data set and tested on another."""

    method: str
    trained_on: str  # name of the data set, or of several: "BP4D + DISFA"
    tested_on: str
    f1: float  # mean over AUs and folds, in [0, 1]; nan where no AU has a positive frame


@dataclass(frozen=True)
class CrossDatasetMatrix:
    """All scores of a job: at most one for each method and pair of data sets."""

    scores: tuple[CrossDatasetScore, ...]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order in which they first appear."""
        return self._distinct(lambda score: score.method)

    @property
    def trained_on(self) -> list[str]:
        """Data sets of the rows."""
        return self._distinct(lambda score: score.trained_on)

    @property
    def tested_on(self) -> list[str]:
        """Data sets of the columns."""
        return self._distinct(lambda score: score.tested_on)

    def build_matrix(self, method: str) -> np.ndarray:
        """F1 x 100 of one method [trained on, tested on]; nan where it was not tested."""
        matrix = np.full((len(self.trained_on), len(self.tested_on)), np.nan)
        for score in self.scores:
            if score.method == method:
                cell = self.trained_on.index(score.trained_on), self.tested_on.index(score.tested_on)
                matrix[cell] = 100 * score.f1
        return matrix

    def build_table(self, *, title: str = "") -> ReportTable:
        """F1 x 100, one row per method and data set that it was trained on."""
        columns = [
            Column("", align="left", can_wrap=False),
            Column("learned on", align="left", can_wrap=False),
            *(Column(f"on {name}", number_format=".1f") for name in self.tested_on),
        ]
        rows: list[list[Cell]] = [
            [method, name, *map(float, f1)]
            for method in self.methods
            for name, f1 in zip(self.trained_on, self.build_matrix(method), strict=True)
        ]
        return ReportTable(columns, rows, title=title)

    def to_csv(self) -> str:
        """One line per score, F1 x 100 with two decimals. Text is always quoted and undefined F1 is nan: not as `csv` would."""
        lines = [
            f'"{score.method}","{score.trained_on}","{score.tested_on}",{100 * score.f1:.2f}\n' for score in self.scores
        ]
        return "".join(["method,learned,tested,f1\n", *lines])

    def plot(self, *, title: str) -> Figure:
        """The matrices of the methods side by side; the darker, the better; values are written in."""
        size = CELL_INCHES * len(self.tested_on), CELL_INCHES * len(self.trained_on)
        figure = Figure(figsize=((size[0] + 1.2) * len(self.methods) + 1, size[1] + 2), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
        shades = LinearSegmentedColormap.from_list("", ["#ffffff", COLOURS[0]])
        for number, method in enumerate(self.methods):
            matrix = self.build_matrix(method)
            axes = figure.add_subplot(1, len(self.methods), number + 1)
            axes.imshow(matrix, cmap=shades, vmin=0, vmax=100)
            axes.set_title(method, loc="left", fontsize=10, color=INK)
            axes.set_xticks(range(len(self.tested_on)), self.tested_on, rotation=30, ha="right", fontsize=8)
            axes.set_yticks(range(len(self.trained_on)), self.trained_on if number == 0 else [], fontsize=8)
            axes.set(xlabel="tested on", ylabel="learned on" if number == 0 else "")
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            for (row, column), value in np.ndenumerate(matrix):
                colour = "white" if value > 60 else INK
                text = "-" if np.isnan(value) else f"{value:.1f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        return figure

    def _distinct(self, name_of: Callable[[CrossDatasetScore], str]) -> list[str]:
        return list(dict.fromkeys(map(name_of, self.scores)))
