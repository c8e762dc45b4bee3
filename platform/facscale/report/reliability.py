"""Reliability diagrams: how often an AU is present where a detector gives it a probability, before and after calibration."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facscale.evaluate.calibration import Bins, CalibrationResult
from facscale.report.figures import INK, REFERENCE, pick_colour, style_axes

COLUMNS = 4


def plot_reliability(result: CalibrationResult, *, title: str) -> Figure:
    """One panel for each AU; bins with few frames have small points."""
    rows = -(-len(result.aus) // COLUMNS)
    columns = min(COLUMNS, len(result.aus))
    figure = Figure(figsize=(2.5 * columns, 2.6 * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for number, item in enumerate(result.aus):
        axes = figure.add_subplot(rows, columns, number + 1)
        style_axes(axes)
        errors = f"ECE {100 * item.before.bins.ece:.1f} % to {100 * item.after.bins.ece:.1f} %"
        axes.set_title(f"AU{item.au}, {item.curve.kind}\n{errors}", loc="left", fontsize=9, color=INK)
        axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=1, zorder=1)
        for colour, (label, bins) in enumerate({"before": item.before.bins, "after": item.after.bins}.items()):
            _plot_bins(axes, bins, colour=pick_colour(colour), label=label if not number else None)
        axes.axvline(item.threshold, color=REFERENCE, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
    figure.supxlabel("predicted probability (dotted: threshold)", fontsize=9)
    figure.supylabel("share of frames with the AU", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _plot_bins(axes: Axes, bins: Bins, *, colour: str, label: str | None) -> None:
    is_filled = bins.frames > 0
    share = bins.frames[is_filled] / max(1, bins.frames.max())
    x, y = bins.probability[is_filled], bins.positive[is_filled]
    axes.plot(x, y, color=colour, linewidth=1.2, label=label, zorder=2)
    axes.scatter(x, y, s=4 + 24 * np.sqrt(share), color=colour, zorder=3)
