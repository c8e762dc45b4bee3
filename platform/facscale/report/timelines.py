"""The picture of what methods say of one video as it goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from facscale.evaluate.predictions import Predictions
from facscale.report.figures import INK, PALE, _colour, _plain

AUS = 12  # the most that one shows


def timeline(
    predictions: Sequence[Predictions], *, aus: Sequence[int] | None = None, threshold: float = 0.5, title: str = ""
) -> Figure:
    """What several methods say of one video, as AUNet's Figure 10: a panel an AU, over the frame's number.

    What is labelled active is grey, not labelled hatched, each method's probability a line; missing frames leave a gap.
    `predictions` are of the same frames of one video, in their order (`Predictions.of`); aus: which to show, else those
    labelled in the video, of more than 12 those that change most often.
    """
    first = predictions[0]
    shown = _changing(first) if aus is None else tuple(aus)
    figure = Figure(figsize=(9.0, 0.62 * len(shown) + 1.2), layout="constrained")
    title = title or f"{first.identity[0]}, {first.video[0]}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    stacked = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, au in zip(stacked, shown, strict=True):
        _plain(axes)
        _truth(axes, *_with_gaps(first.frame, first.au[:, first.aus.index(au)]))
        axes.axhline(threshold, color=INK, linewidth=0.7, linestyle=(0, (4, 4)), alpha=0.6, label="threshold")
        for number, method in enumerate(predictions):
            line = _with_gaps(method.frame, method.probability[:, method.aus.index(au)])
            axes.plot(*line, color=_colour(number), linewidth=1.3, label=method.name)
        axes.set(ylim=(-0.04, 1.04), yticks=[0, 1])
        axes.set_ylabel(f"AU{au}", rotation=0, ha="right", va="center", color=INK)
        axes.margins(x=0.005)
    stacked[-1].set_xlabel("frame", color=INK)
    stacked[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    named = [dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)) for axes in stacked]
    legend = {name: handle for panel in named for name, handle in panel.items()}
    figure.legend(
        list(legend.values()), list(legend), loc="outside lower center", ncols=min(6, len(legend)), frameon=False,
        fontsize=9, labelcolor=INK,
    )  # fmt: skip
    return figure


def _changing(video: Predictions) -> tuple[int, ...]:
    """The AUs that are labelled in a video; of more than fit those that change most often."""
    labelled = np.flatnonzero((video.au >= 0).any(axis=0))
    changes = (np.diff(video.au[:, labelled], axis=0) != 0).sum(axis=0)
    most = labelled[np.argsort(-changes, kind="stable")[:AUS]]
    return tuple(video.aus[number] for number in sorted(most))


def _truth(axes: Axes, frame: np.ndarray, au: np.ndarray) -> None:
    """The labels {1, 0, -1} of one AU as areas; each reaches half way to the next frame."""
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


def _with_gaps(frame: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line that breaks (nan) where frames are missing: where they lie further apart than they mostly do."""
    apart = np.diff(frame)
    gaps = np.flatnonzero(apart > 1.5 * (np.median(apart) if len(apart) else 1)) + 1
    return np.insert(frame.astype(float), gaps, np.nan), np.insert(values.astype(float), gaps, np.nan)
