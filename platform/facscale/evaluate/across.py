"""What was learned on one data set, tested on another: the cross-data-set matrix of each method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from rich.table import Table as RichTable

from facscale.report.figures import COLOURS, INK

SIDE = 0.75  # inches, of a cell


class Cell(NamedTuple):
    """One method, learned and tested."""

    row: str
    learned: str  # name of the data set, or of several: "BP4D + DISFA"
    tested: str
    f1: float  # mean over AUs and folds, in [0, 1]; nan where no AU has a positive frame


@dataclass(frozen=True)
class Across:
    """All of a job's cells, one for each method, what it learned from, and what it was tested on."""

    cells: tuple[Cell, ...]

    @property
    def rows(self) -> list[str]:
        """Names of the methods."""
        return self._distinct(lambda cell: cell.row)

    @property
    def learned(self) -> list[str]:
        """Lines of a matrix."""
        return self._distinct(lambda cell: cell.learned)

    @property
    def tested(self) -> list[str]:
        """Columns of a matrix."""
        return self._distinct(lambda cell: cell.tested)

    def matrix(self, row: str) -> np.ndarray:
        """F1 x 100 of one method [learned, tested]; nan where it was not tested."""
        found = np.full((len(self.learned), len(self.tested)), np.nan)
        for cell in self.cells:
            if cell.row == row:
                found[self.learned.index(cell.learned), self.tested.index(cell.tested)] = 100 * cell.f1
        return found

    def rich(self, *, title: str) -> RichTable:
        """For the terminal."""
        head, *lines = self._lines()
        table = RichTable(title=title, title_justify="left")
        for number, name in enumerate(head):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number < 2)
        for line in lines:
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        """For a page."""
        head, *lines = self._lines()
        ruled = [head, ["---", "---", *["---:"] * len(self.tested)], *lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in ruled)

    def csv(self) -> str:
        """One line a cell, F1 x 100 with two decimals."""
        lines = [f'"{cell.row}","{cell.learned}","{cell.tested}",{100 * cell.f1:.2f}\n' for cell in self.cells]
        return "".join(["method,learned,tested,f1\n", *lines])

    def figure(self, *, title: str) -> Figure:
        """A matrix a method, side by side; the darker, the better; values written in."""
        size = SIDE * len(self.tested), SIDE * len(self.learned)
        figure = Figure(figsize=((size[0] + 1.2) * len(self.rows) + 1, size[1] + 2), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
        shades = LinearSegmentedColormap.from_list("", ["#ffffff", COLOURS[0]])
        for number, row in enumerate(self.rows):
            axes = figure.add_subplot(1, len(self.rows), number + 1)
            axes.imshow(self.matrix(row), cmap=shades, vmin=0, vmax=100)
            axes.set_title(row, loc="left", fontsize=10, color=INK)
            axes.set_xticks(range(len(self.tested)), self.tested, rotation=30, ha="right", fontsize=8)
            axes.set_yticks(range(len(self.learned)), self.learned if number == 0 else [], fontsize=8)
            axes.set(xlabel="tested on", ylabel="learned on" if number == 0 else "")
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            for (line, column), value in np.ndenumerate(self.matrix(row)):
                colour = "white" if value > 60 else INK
                axes.text(column, line, _shown(value), ha="center", va="center", fontsize=8, color=colour)
        return figure

    def _lines(self) -> list[list[str]]:
        """The heading, then a line for each method and what it learned from."""
        found = [["", "learned on", *(f"on {name}" for name in self.tested)]]
        for row in self.rows:
            lines = zip(self.learned, self.matrix(row), strict=True)
            found += [[row, learned, *map(_shown, line)] for learned, line in lines]
        return found

    def _distinct(self, of: Callable[[Cell], str]) -> list[str]:
        return list(dict.fromkeys(map(of, self.cells)))


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"
