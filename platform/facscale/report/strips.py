"""The plot of how a method's F1 differs from person to person."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from facscale.report.figures import INK, PALE, add_axes, pick_colour, shorten_name

LEVEL_HEIGHT = 0.075  # between dots that would hide each other, where rows are 1 apart
MAX_SPREAD = 0.3  # of the dots of a row, to either side
LINE = "#9aa1ab"
DOTS_ACROSS = 60  # as many fit side by side into the width of the figure

Dots = dict[str, tuple[float, float]]  # {person: (F1 x 100, height)}


def plot_subject_strips(scores: Mapping[str, Mapping[str, float]], *, title: str = "F1 of each person") -> Figure:
    """One row per method, one dot per person: {method: {person: F1 in [0, 1]}} as of `score_subjects`; nan is left out.

    Thin lines follow a person from row to row. The box holds the middle half of the people, its line is their median; the
    person with the lowest F1 is named.
    """
    figure = Figure(figsize=(7.2, 1.3 + 0.95 * len(scores)), layout="constrained")
    axes = add_axes(figure, title=title, y="")
    rows = [{person: 100 * f1 for person, f1 in row.items() if not np.isnan(f1)} for row in scores.values()]
    values = [f1 for row in rows for f1 in row.values()]
    if not values:
        axes.text(0.5, 0.5, "F1 is undefined for everybody", ha="center", transform=axes.transAxes, color=INK)
        values = [0.0, 100.0]
    left, right = 10 * np.floor(min(values) / 10 - 0.35), 10 * np.ceil(max(values) / 10)
    dots = [_place_dots(row, number, distance=(right - left) / DOTS_ACROSS) for number, row in enumerate(rows)]
    for number, row in enumerate(dots):
        _draw_row(axes, row, number)
    for above, below in pairwise(dots):
        lines = [(above[person], below[person]) for person in above if person in below]
        axes.add_collection(LineCollection(lines, colors=LINE, linewidths=0.5, alpha=0.45, zorder=1))
    medians = [f"\nmedian {np.median(list(row.values())):.1f}" if row else "" for row in rows]
    axes.set_yticks(
        range(len(rows)), [shorten_name(name) + median for name, median in zip(scores, medians, strict=True)]
    )
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(max(left, -6), min(right, 100) + 0.5))
    axes.set_xlabel("F1 x 100, mean over the AUs that a person shows", color=INK)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=PALE, linewidth=0.7)
    return figure


def spread_dots(values: np.ndarray, *, distance: float) -> np.ndarray:
    """Levels [N] int, 0, 1, -1, 2, ...: each value on the first one where no other value is closer than `distance`."""
    levels = np.zeros(len(values), int)
    last: list[float] = []  # largest value on each level so far, in the order in which levels are tried
    for number in np.argsort(values, kind="stable").tolist():
        free = next((place for place, value in enumerate(last) if values[number] - value >= distance), len(last))
        last[free : free + 1] = [float(values[number])]
        levels[number] = (free + 1) // 2 * (1 if free % 2 else -1)
    return levels


def _place_dots(row: Mapping[str, float], number: int, *, distance: float) -> Dots:
    """F1 x 100 and height of each person of a row."""
    levels = spread_dots(np.array(list(row.values())), distance=distance)
    heights = number + levels * min(LEVEL_HEIGHT, MAX_SPREAD / max(1, np.abs(levels).max(initial=0)))
    return {person: (f1, height) for (person, f1), height in zip(row.items(), heights.tolist(), strict=True)}


def _draw_row(axes: Axes, row: Dots, number: int) -> None:
    """Draw the dots, the box, and the name of the person with the lowest F1."""
    if not row:
        return
    colour = pick_colour(number)
    f1, heights = zip(*row.values(), strict=True)
    axes.scatter(f1, heights, s=22, color=colour, edgecolor="white", linewidth=0.5, zorder=4)
    axes.boxplot(
        f1,
        positions=[number],
        orientation="horizontal",
        widths=0.72,
        patch_artist=True,
        showfliers=False,
        showcaps=False,
        zorder=2,
        manage_ticks=False,
        whiskerprops={"linewidth": 0},
        boxprops={"facecolor": colour, "alpha": 0.16, "linewidth": 0},
        medianprops={"color": INK, "linewidth": 1.6},
    )
    lowest = min(row, key=lambda person: row[person])
    axes.annotate(
        lowest, row[lowest], (-5, 0), textcoords="offset points", ha="right", va="center", fontsize=7, color=INK
    )
