"""The picture of how a method's F1 differs from person to person."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from facscale.report.figures import COLOURS, INK, PALE, _axes

STEP = 0.075  # between dots that would hide each other, where rows are 1 apart
WIDEST = 0.3  # of a row, to either side
LINE = "#9aa1ab"
DOTS = 60  # as many stand side by side in the width of the picture

Dots = dict[str, tuple[float, float]]  # F1 x 100 and height of each person


def subject_strips(values: Mapping[str, Mapping[str, float]], *, title: str = "F1 of each person") -> Figure:
    """A row a method, a dot a person, {method: {person: F1 in [0, 1]}} as `per_subject` gives it; nan is left out.

    Thin lines follow a person from row to row. The box holds the middle half of the people, its line is their median;
    the person with the lowest F1 is named.
    """
    figure = Figure(figsize=(7.2, 1.3 + 0.95 * len(values)), layout="constrained")
    axes = _axes(figure, title=title, y="")
    rows = [{person: 100 * f1 for person, f1 in row.items() if not np.isnan(f1)} for row in values.values()]
    everything = [f1 for row in rows for f1 in row.values()] or [0.0]
    left, right = 10 * np.floor(min(everything) / 10 - 0.35), 10 * np.ceil(max(everything) / 10)
    dots = [_dots(row, number, apart=(right - left) / DOTS) for number, row in enumerate(rows)]
    for number, row in enumerate(dots):
        _draw(axes, row, number)
    for above, below in pairwise(dots):
        lines = [(above[person], below[person]) for person in above if person in below]
        axes.add_collection(LineCollection(lines, colors=LINE, linewidths=0.5, alpha=0.45, zorder=1))
    medians = [f"\nmedian {np.median(list(row.values())):.1f}" if row else "" for row in rows]
    axes.set_yticks(range(len(rows)), [name + median for name, median in zip(values, medians, strict=True)])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(max(left, -6), min(right, 100) + 0.5))
    axes.set_xlabel("F1 x 100, mean over the AUs that a person shows", color=INK)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=PALE, linewidth=0.7)
    return figure


def _dots(row: Mapping[str, float], number: int, *, apart: float) -> Dots:
    """Where each person of a row stands."""
    levels = swarm(np.array(list(row.values())), apart=apart)
    heights = number + levels * min(STEP, WIDEST / max(1, np.abs(levels).max(initial=0)))
    return {person: (f1, height) for (person, f1), height in zip(row.items(), heights.tolist(), strict=True)}


def _draw(axes: Axes, row: Dots, number: int) -> None:
    """Dots, box, and the name of the lowest."""
    if not row:
        return
    colour = COLOURS[number % len(COLOURS)]
    f1, heights = zip(*row.values(), strict=True)
    axes.scatter(f1, heights, s=22, color=colour, edgecolor="white", linewidth=0.5, zorder=4)
    axes.boxplot(
        f1, positions=[number], orientation="horizontal", widths=0.72, patch_artist=True, showfliers=False,
        showcaps=False, zorder=2, manage_ticks=False, whiskerprops={"linewidth": 0},
        boxprops={"facecolor": colour, "alpha": 0.16, "linewidth": 0}, medianprops={"color": INK, "linewidth": 1.6},
    )  # fmt: skip
    lowest = min(row, key=lambda person: row[person])
    axes.annotate(
        lowest, row[lowest], (-5, 0), textcoords="offset points", ha="right", va="center", fontsize=7, color=INK
    )


def swarm(values: np.ndarray, *, apart: float) -> np.ndarray:
    """Levels [N] int, 0, 1, -1, 2, ...: each value on the first one where no other is nearer than `apart`."""
    levels = np.zeros(len(values), int)
    last: list[float] = []  # value on each level so far, in the order in which levels are tried
    for number in np.argsort(values, kind="stable").tolist():
        free = next((place for place, value in enumerate(last) if values[number] - value >= apart), len(last))
        last[free : free + 1] = [float(values[number])]
        levels[number] = (free + 1) // 2 * (1 if free % 2 else -1)
    return levels
