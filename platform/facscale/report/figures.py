"""Figures for the tracker and the README. Every function returns a matplotlib Figure and needs no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill, shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from facscale.report.f1_table import F1Table
from facscale.report.table import NOTHING

INK, PALE = "#22262b", "#d9dce1"
# Okabe and Ito's palette, which colour-blind readers can tell apart; grey is for references
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
REFERENCE = "#a9aeb6"
HATCHES = ("", "///", "...")  # tell rows apart that share a colour
MAX_WIDTH = 16.0  # inches: a page makes wider figures smaller, and their letters with them
TICK_WIDTH = 0.5  # inches that the name of an AU takes
MAX_NAME = 48  # letters of a name in a legend or beside an axis
LEGEND_LETTERS = 88  # in a line of a legend, with the signs before the names
FEW_POINTS = 20  # fewer are marked: a single one would not be seen as a line


def plot_f1_bars(table: F1Table, *, title: str = "F1 by action unit") -> Figure:
    """Grouped bars of F1 x 100 for each AU and their mean, one colour per row; the whiskers span the folds.

    Of a table without rows, axes with a line that says so.
    """
    if not table.rows:
        return _plot_nothing(title, y="F1 x 100")
    names = [f"AU{au}" for au in table.aus]
    columns = count_legend_columns([row.name for row in table.rows])
    width = min(MAX_WIDTH, max(6.0, 1.4 + 0.2 * (len(names) + 1) * max(3, len(table.rows))))
    height = 3.4 + 0.2 * -(-len(table.rows) // columns)  # 0.2: a line of the legend
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = add_axes(figure, title=title, y="F1 x 100")
    bar_width = 0.84 / len(table.rows)
    for number, row in enumerate(table.rows):
        colour = REFERENCE if row.is_published else pick_colour(number)
        values = dict(zip(row.aus, row.f1 * 100, strict=True))
        low, high = (dict(zip(row.aus, limit, strict=True)) for limit in _find_range(row.by_fold * 100))
        heights = np.array([*(values.get(au, np.nan) for au in table.aus), row.mean * 100])
        ends = np.array([[*(limit.get(au, np.nan) for au in table.aus), np.nan] for limit in (low, high)])
        if not np.isnan(row.fold_means).all():
            ends[:, -1] = np.nanmin(row.fold_means * 100), np.nanmax(row.fold_means * 100)
        x = np.arange(len(heights)) + (number - (len(table.rows) - 1) / 2) * bar_width
        x[-1] += 0.35  # the mean stands apart
        hatch = "" if row.is_published else HATCHES[number // len(COLOURS) % len(HATCHES)]
        label = f"{shorten_name(row.name)}  {'-' if np.isnan(row.mean) else f'{row.mean * 100:.1f}'}"
        axes.bar(
            x,
            heights,
            0.92 * bar_width,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            label=label,
            zorder=2,
        )
        if len(row.folds) > 1:
            axes.errorbar(
                x, heights, np.abs(ends - heights), fmt="none", ecolor=INK, elinewidth=0.8, alpha=0.7, zorder=3
            )
    axes.set_xticks([*range(len(names)), len(names) + 0.35], [*names, "mean"])
    axes.get_xticklabels()[-1].set_fontweight("bold")
    turn_dense_labels(axes, len(names) + 1, width=width)
    axes.set_xlim(-0.6, len(names) + 0.95)
    axes.set_ylim(0, 100)
    axes.tick_params(axis="x", length=0)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def plot_curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, y: str = "loss", x: str = "step"
) -> Figure:
    """Lines over steps, {name: (steps, values)}; those of more than 50 values are faint, with their running mean on top."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = add_axes(figure, title=title, y=y)
    for number, (name, (steps, values)) in enumerate(series.items()):
        line = np.asarray(values, float)
        if len(line) > 50:
            axes.plot(steps, line, color=pick_colour(number), linewidth=0.7, alpha=0.3)
            line = _smooth(line, window=max(1, len(line) // 25))
        marker = "o" if len(line) < FEW_POINTS else ""
        axes.plot(steps, line, color=pick_colour(number), linewidth=1.8, marker=marker, markersize=3, label=name)
    axes.set_xlabel(x, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def plot_panels(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, columns: int = 3
) -> Figure:
    """Small plots side by side, {name: (steps, values)}: for quantities of different units."""
    columns = min(columns, len(series))
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.1 * rows + 0.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    for number, (name, (steps, values)) in enumerate(series.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        style_axes(axes)
        marker = "o" if len(values) < FEW_POINTS else ""
        axes.plot(steps, values, color=pick_colour(0), linewidth=1.6, marker=marker, markersize=3)
        axes.set_title(name, loc="left", fontsize=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    return figure


def plot_heatmap(
    values: np.ndarray, *, labels: Sequence[str], title: str, sides: tuple[str, str] = ("", ""), decimals: int = 1
) -> Figure:
    """A square matrix in [-1, 1]: blue above 0, orange below, values written in, nan blank; `sides` names rows and columns."""
    side = max(3.0, 1.2 + 0.42 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        values, cmap=LinearSegmentedColormap.from_list("", [COLOURS[1], "#ffffff", COLOURS[0]]), vmin=-1, vmax=1
    )
    axes.set_title(fill(title, round(9 * side)), loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set(ylabel=sides[0], xlabel=sides[1])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else INK
        text = "" if np.isnan(value) else f"{value:z.{decimals}f}".replace("0.", ".")
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    return figure


def plot_histogram(values: Mapping[str, Sequence[float]], *, title: str, x: str, bins: int = 60) -> Figure:
    """Histograms of {name: values} over each other, without the largest 0.5 %; dashed lines and the legend show the means."""
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = add_axes(figure, title=title, y="pairs")
    largest = max(np.quantile(line, 0.995) for line in map(np.asarray, values.values()))
    for number, (name, line) in enumerate(values.items()):
        mean, colour = float(np.mean(line)), pick_colour(number)
        axes.hist(line, bins=bins, range=(0, largest), color=colour, alpha=0.55, label=f"{name}  mean {mean:.4g}")
        axes.axvline(mean, color=colour, linewidth=1.2, linestyle="--")
    axes.set_xlabel(x, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def plot_contact_sheet(images: np.ndarray, *, columns: int = 8, labels: Sequence[str] = (), title: str = "") -> Figure:
    """Images [N, H, W, 3], uint8 or float in [0, 1], in a dense grid; `labels` stand below them."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = 1.15 if labels else 1.0
    figure = _make_dense_figure(1.25 * columns, 1.25 * height * rows + (0.4 if title else 0), title=title)
    for number, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image, interpolation="lanczos")
        axes.set_axis_off()
        if labels:
            axes.text(
                0.5, -0.04, labels[number], transform=axes.transAxes, ha="center", va="top", fontsize=7, color=INK
            )
    return figure


def plot_sample_sheet(columns: Mapping[str, np.ndarray], *, title: str = "") -> Figure:
    """One row per sample, {column: [n, H, W, 3] images in [0, 1], or [n, H, W, 2] displacements in pixels}."""
    rows = len(next(iter(columns.values())))
    figure = _make_dense_figure(1.25 * len(columns), 1.25 * rows + 0.7, title=title)
    for column, (name, values) in enumerate(columns.items()):
        heading, images = name, values.clip(0, 1)
        if values.shape[-1] == 2:
            longest = float(np.linalg.norm(values, axis=-1).max())
            heading, images = f"{name}\nup to {longest:.1f} px", color_flow(values, longest=longest)
        for number, image in enumerate(images):
            axes = figure.add_subplot(rows, len(columns), number * len(columns) + column + 1)
            axes.imshow(image, interpolation="lanczos")
            axes.set_axis_off()
            if number == 0:
                axes.set_title(heading, fontsize=8, color=INK)
    return figure


def plot_retrieval(
    rows: Sequence[Sequence[np.ndarray]], *, captions: Sequence[Sequence[Sequence[str]]], title: str = ""
) -> Figure:
    """Images [H, W, 3] uint8, one row per query: the query, framed and apart, then its results, the best one first.

    captions: for each image up to three lines below it, the second one highlighted; empty ones take no room.
    """
    columns = max(map(len, rows))
    width = 1.25 * columns + 0.3
    wrapped = fill(title, width=int(9 * width))
    figure = _make_dense_figure(width, 1.75 * len(rows) + 0.25 * wrapped.count("\n") + 0.4, title=wrapped)
    grid = figure.add_gridspec(len(rows), columns + 1, width_ratios=[1, 0.12, *[1] * (columns - 1)])
    for number, (images, lines) in enumerate(zip(rows, captions, strict=True)):
        for column, (image, caption) in enumerate(zip(images, lines, strict=True)):
            axes = figure.add_subplot(grid[number, column + (column > 0)])
            axes.imshow(image, interpolation="lanczos")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=column == 0, color=COLOURS[4], linewidth=2.5)
            texts = [(line, place == 1) for place, line in enumerate(caption) if line]
            for depth, (line, is_highlighted) in enumerate(texts):
                axes.text(
                    0.5,
                    -0.04 - 0.1 * depth,
                    line,
                    transform=axes.transAxes,
                    ha="center",
                    va="top",
                    fontsize=7,
                    weight="bold" if is_highlighted else "normal",
                    color=COLOURS[0] if is_highlighted else INK,
                )
    return figure


def color_flow(displacements: np.ndarray, *, longest: float) -> np.ndarray:
    """Displacements [..., 2] as colours [..., 3]: the hue is the direction, white is none, pure colour a length of `longest`."""
    angle = (np.arctan2(displacements[..., 1], displacements[..., 0]) / (2 * np.pi)) % 1
    length = np.linalg.norm(displacements, axis=-1) / max(longest, 1e-9)
    return hsv_to_rgb(np.stack([angle, length.clip(0, 1), np.ones_like(angle)], -1))


def add_axes(figure: Figure, *, title: str, y: str) -> Axes:
    """The only axes of a figure, in the style of all plots; y: their label."""
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_ylabel(y, color=INK)
    return axes


def style_axes(axes: Axes) -> None:
    """Leave only the bottom line and pale horizontal grid lines."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)


def turn_dense_labels(axes: Axes, count: int, *, width: float) -> None:
    """Turn the names below the axes upright where `count` of them have no room side by side in `width` inches."""
    if width < TICK_WIDTH * count:
        axes.tick_params(axis="x", labelrotation=90)


def pick_colour(number: int) -> str:
    """The colour of a series by its number; they repeat after six."""
    return COLOURS[number % len(COLOURS)]


def shorten_name(name: str) -> str:
    """A name of at most `MAX_NAME` letters; the middle is left out, because names of rows differ at their ends."""
    if len(name) <= MAX_NAME:
        return name
    return f"{shorten(name, MAX_NAME // 2, placeholder='') or name[: MAX_NAME // 2]} … {name[3 - MAX_NAME // 2 :].lstrip()}"


def count_legend_columns(names: Sequence[str]) -> int:
    """How many names stand side by side below a figure: at most 4, fewer if they are long."""
    longest = max((len(shorten_name(name)) for name in names), default=1)
    return max(1, min(4, len(names), LEGEND_LETTERS // (longest + 8)))


def _plot_nothing(title: str, *, y: str) -> Figure:
    """Axes without any values."""
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = add_axes(figure, title=title, y=y)
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, NOTHING, transform=axes.transAxes, ha="center", va="center", color=INK)
    return figure


def _make_dense_figure(width: float, height: float, *, title: str) -> Figure:
    """A figure with hardly a gap between its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _find_range(by_fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each column, nan where all are."""
    undefined = np.isnan(by_fold)
    low = np.where(undefined, np.inf, by_fold).min(axis=0)
    high = np.where(undefined, -np.inf, by_fold).max(axis=0)
    return np.where(np.isinf(low), np.nan, low), np.where(np.isinf(high), np.nan, high)


def _smooth(values: np.ndarray, *, window: int) -> np.ndarray:
    """Centred running mean, over fewer values at the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
