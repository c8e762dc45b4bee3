"""The plot of what methods predict in one video over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from facscale.evaluate.predictions import Predictions
from facscale.report.figures import INK, PALE, pick_colour, style_axes

MAX_AUS = 12  # that one figure shows


def plot_timeline(
    predictions: Sequence[Predictions], *, aus: Sequence[int] | None = None, threshold: float = 0.5, title: str = ""
) -> Figure:
    """Predictions of several methods in one video, as in AUNet's Figure 10: one panel per AU, over the frame number.

    Frames labelled active are grey, unlabelled ones hatched, each method's probability is a line; missing frames leave a
    gap. `predictions` are of the same frames of one video (`Predictions.select_video`); aus: which to show, by default those
    labelled in the video, and of more than 12 those that change most often.
    """
    first = predictions[0]
    shown = _find_changing_aus(first) if aus is None else tuple(aus)
    figure = Figure(figsize=(9.0, 0.62 * len(shown) + 1.2), layout="constrained")
    title = title or f"{first.identity[0]}, {first.video[0]}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, au in zip(panels, shown, strict=True):
        style_axes(axes)
        _draw_labels(axes, *_break_at_gaps(first.frame, first.au[:, first.aus.index(au)]))
        axes.axhline(threshold, color=INK, linewidth=0.7, linestyle=(0, (4, 4)), alpha=0.6, label="threshold")
        for number, method in enumerate(predictions):
            line = _break_at_gaps(method.frame, method.probability[:, method.aus.index(au)])
            axes.plot(*line, color=pick_colour(number), linewidth=1.3, label=method.name)
        axes.set(ylim=(-0.04, 1.04), yticks=[0, 1])
        axes.set_ylabel(f"AU{au}", rotation=0, ha="right", va="center", color=INK)
        axes.margins(x=0.005)
    panels[-1].set_xlabel("frame", color=INK)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)) for axes in panels]
    legend = {name: handle for panel in handles for name, handle in panel.items()}
    figure.legend(
        list(legend.values()),
        list(legend),
        loc="outside lower center",
        ncols=min(6, len(legend)),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    return figure


def _find_changing_aus(video: Predictions) -> tuple[int, ...]:
    """The AUs that are labelled in a video; of more than fit, those that change most often."""
    labelled = np.flatnonzero((video.au >= 0).any(axis=0))
    changes = (np.diff(video.au[:, labelled], axis=0) != 0).sum(axis=0)
    most = labelled[np.argsort(-changes, kind="stable")[:MAX_AUS]]
    return tuple(video.aus[number] for number in sorted(most))


def _draw_labels(axes: Axes, frame: np.ndarray, au: np.ndarray) -> None:
    """Draw the labels {1, 0, -1} of one AU as areas; each reaches half way to the next frame."""
    axes.fill_between(frame, au == 1, step="mid", color=PALE, linewidth=0, label="labelled active")
    if (au == -1).any():
        axes.fill_between(
            frame,
            au == -1,
            step="mid",
            facecolor="none",
            edgecolor=PALE,
            hatch="////",
            linewidth=0,
            label="not labelled",
        )


def _break_at_gaps(frame: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line that breaks (nan) where frames are missing: where two lie further apart than 1.5 times the median distance."""
    distance = np.diff(frame)
    gaps = np.flatnonzero(distance > 1.5 * (np.median(distance) if len(distance) else 1)) + 1
    return np.insert(frame.astype(float), gaps, np.nan), np.insert(values.astype(float), gaps, np.nan)
