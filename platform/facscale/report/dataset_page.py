"""A data set on one page: counts, people, lengths, pose, light, labels, and its best and worst crops."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from facscale.data import Dataset
from facscale.data.published_sizes import find_counts, find_size
from facscale.data.statistics import FrameSample, LabelStatistics, count_people, measure_labels, sample_frames
from facscale.data.tracks import measure_run_seconds
from facscale.ingest import IngestReport
from facscale.report.figures import COLOURS, INK, MAX_WIDTH, add_axes, turn_dense_labels
from facscale.report.pages import encode_png, render_page
from facscale.report.table import Column, ReportTable

CROPS = 16  # in each row of crops
CROPS_OF_VIDEO = 2  # of these: neighbouring frames look alike
PLACES = 1  # decimals of shares in percent


class CropRow(NamedTuple):
    """Crops of a sample that are extreme in some way."""

    title: str
    images: list[tuple[str, str]]  # data URL, caption


def build_dataset_page(dataset: Dataset, *, advance: Callable[[], None] = lambda: None) -> str:
    """Measure a data set and return its page as HTML. Raises DataError, CorruptError."""
    sample = sample_frames(dataset, advance=advance)
    labels = measure_labels(dataset)
    counts = count_people(dataset)
    figures = [("People and lengths", plot_people(dataset, counts)), ("Frames of the sample", plot_frames(sample))]
    if labels:
        figures += [("Action units", plot_rates(labels)), ("Co-occurrence", plot_cooccurrence(labels))]
    manifest = dataset.manifest
    return render_page(
        "dataset.html",
        title=manifest.name,
        facts=make_facts(dataset),
        coverage=make_coverage(dataset, labels),
        detection=make_detection(dataset),
        figures=[(title, encode_png(figure)) for title, figure in figures],
        sampled=f"{len(sample):,} of {manifest.counts['frames']:,} frames, {sample.unreadable:,} more could not be read",
        crops=select_crops(sample),
        recipe=manifest.recipe,
    )


def make_facts(dataset: Dataset) -> ReportTable:
    """What the manifest says, in words."""
    manifest = dataset.manifest
    rows = [[name.replace("_", " "), f"{count:,}"] for name, count in manifest.counts.items()]
    rows += [
        ["crops", f"{manifest.image_size} x {manifest.image_size} pixels"],
        ["frames a second", f"{manifest.fps:g}" if manifest.fps else "single images"],
        ["size", f"{sum(shard.bytes for shard in manifest.shards) / 1e6:,.1f} MB in {len(manifest.shards)} shards"],
        ["action units", " ".join(map(str, manifest.au)) or "not labelled"],
        ["expressions", ", ".join(manifest.expressions) or "not labelled"],
        ["fingerprint", manifest.fingerprint],
    ]
    detector = manifest.recipe.get("detector")
    rows.append(
        ["detector", str(detector.get("name", "") if isinstance(detector, dict) else detector or "not recorded")]
    )
    rows += [[term, str(manifest.recipe.get(term) or "not recorded")] for term in ("licence", "consent")]
    rows += [["made by", str(step.get("command"))] for step in manifest.recipe.get("history", [])]
    return ReportTable([Column(""), Column("")], rows)


def make_coverage(dataset: Dataset, labels: LabelStatistics | None) -> ReportTable | None:
    """The set beside its published size and positive frames; None for a set of which none are known."""
    manifest = dataset.manifest
    size = find_size(manifest.name) or find_size(dataset.url)
    if size is None:
        return None
    counts = manifest.counts
    pairs = [
        ("people", counts["identities"], size.people),
        ("tracks", counts["tracks"], size.tracks),
        ("frames", counts["labelled_frames"] if manifest.au else counts["frames"], size.frames),
    ]
    published_counts = find_counts(size.name)
    if labels and published_counts and (positives := published_counts.positives):
        own_positives = dict(zip(labels.aus, map(int, labels.positives), strict=True))
        pairs += [(f"positives of AU{au}", own_positives.get(au, 0), positives[au]) for au in positives]
    rows = [
        [name, f"{own:,}", f"{published:,}", f"{own - published:+,}", f"{100 * own / published:.{PLACES}f} %"]
        for name, own, published in pairs
    ]
    missing = [f"AU{au}" for au in size.aus if au not in manifest.au]
    if size.aus:
        rows.append(
            ["action units", " ".join(map(str, manifest.au)), " ".join(map(str, size.aus)), " ".join(missing), ""]
        )
    columns = [Column(heading) for heading in ("", "here", "published", "difference", "share")]
    return ReportTable(columns, rows, title=f"{size.name} ({size.source})")


def make_detection(dataset: Dataset) -> ReportTable | None:
    """What the pipeline's report says; None without one."""
    report = IngestReport.read(dataset.url)
    if report is None:
        return None
    rows = [
        ["items", f"{report.items:,}"],
        ["frames decoded", f"{report.frames:,}"],
        ["frames with a face", f"{100 * report.detection_rate:.{PLACES}f} %"],
        ["frames without a face", f"{report.faceless:,}"],
        ["frames in tracks that were too short", f"{report.dropped:,}"],
        ["faults", f"{len(report.faults):,}"],
    ]
    return ReportTable([Column(""), Column("")], rows)


def select_crops(sample: FrameSample) -> list[CropRow]:
    """The crops at both ends of each measure."""
    turned = np.abs(sample.yaw)
    worst = {"disagreement": "landmarks least certain", "outside": "most outside the picture"}
    return [
        *(_make_crop_row(sample, worst[name], -values, values, "{:.2f}") for name, values in sample.stored.items()),
        _make_crop_row(sample, "sharpest", -sample.sharpness, sample.sharpness, "{:.0f}"),
        _make_crop_row(sample, "least sharp", sample.sharpness, sample.sharpness, "{:.0f}"),
        _make_crop_row(sample, "darkest", sample.light, sample.light, "grey {:.0f}"),
        _make_crop_row(sample, "brightest", -sample.light, sample.light, "grey {:.0f}"),
        _make_crop_row(sample, "most turned", -turned, sample.yaw, "{:.0f}°"),
    ]


def _make_crop_row(sample: FrameSample, title: str, order: np.ndarray, values: np.ndarray, text: str) -> CropRow:
    per_video: Counter[str] = Counter()
    rows: list[int] = []
    for row in np.argsort(order, kind="stable"):
        video = sample.names[row].rsplit("/", 2)[0]
        if len(rows) < CROPS and np.isfinite(values[row]) and per_video[video] < CROPS_OF_VIDEO:
            per_video[video] += 1
            rows.append(int(row))
    images = [
        (
            f"data:image/jpeg;base64,{base64.b64encode(sample.jpegs[row]).decode()}",
            f"{sample.names[row]}: {text.format(values[row])}",
        )
        for row in rows
    ]
    return CropRow(title, images)


def plot_people(dataset: Dataset, counts: dict[str, np.ndarray]) -> Figure:
    """Histograms of videos and frames of each person, and of the lengths of runs."""
    rate = dataset.manifest.fps
    lengths = measure_run_seconds(dataset) if rate else counts["run_frames"].astype(float)
    return _plot_histograms(
        [
            ("videos of a person", counts["videos"], "people"),
            ("frames of a person", counts["frames"], "people"),
            ("seconds of a run" if rate else "frames of a run", lengths, "runs"),
        ]
    )


def plot_frames(sample: FrameSample) -> Figure:
    """Histograms of pose, light and sharpness."""
    return _plot_histograms(
        [
            ("yaw, degrees", sample.yaw, "frames"),
            ("pitch, degrees", sample.pitch, "frames"),
            ("mean grey value", sample.light, "frames"),
            ("contrast", sample.contrast, "frames"),
            ("sharpness, log10", np.log10(np.maximum(sample.sharpness, 1e-3)), "frames"),
            *((name, values, "frames") for name, values in sample.stored.items()),
        ]
    )


def _plot_histograms(panels: Sequence[tuple[str, np.ndarray, str]]) -> Figure:
    figure = Figure(figsize=(3.1 * len(panels), 2.7), layout="constrained")
    for number, (title, values, unit) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        known = values[np.isfinite(values)]
        if len(known):
            axes.hist(known, bins=min(40, max(5, len(np.unique(known)))), color=COLOURS[0])
        else:
            axes.text(0.5, 0.5, "unknown", ha="center", va="center", transform=axes.transAxes, color=INK)
        if np.issubdtype(values.dtype, np.integer):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel(title, color=INK)
        axes.set_ylabel(unit, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_rates(labels: LabelStatistics) -> Figure:
    """The base rate of each AU as a bar, and that of each person as a dot."""
    width = min(MAX_WIDTH, max(5.0, 0.7 * len(labels.aus) + 1.5))
    figure = Figure(figsize=(width, 3.2), layout="constrained")
    axes = add_axes(figure, title="Share of active frames: bar, all; dots, each person", y="%")
    x = np.arange(len(labels.aus))
    axes.bar(x, 100 * np.nan_to_num(labels.rates), color=COLOURS[0], zorder=2)
    spread = np.linspace(-0.3, 0.3, len(labels.people)) if len(labels.people) > 1 else np.zeros(1)
    for number in x:
        axes.scatter(number + spread, 100 * labels.rates_by_person[:, number], s=6, color=COLOURS[1], zorder=3)
    axes.set_xticks(x, [f"AU{au}" for au in labels.aus])
    turn_dense_labels(axes, len(labels.aus), width=width)
    return figure


def plot_cooccurrence(labels: LabelStatistics) -> Figure:
    """P(column | row) in percent, as the mean over people."""
    side = min(MAX_WIDTH, max(4.0, 0.55 * len(labels.aus) + 1.5))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(labels.cooccurrence, vmin=0, vmax=1, cmap="Blues")
    names = [f"AU{au}" for au in labels.aus]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_title("% of frames with the row's AU that have the column's (mean over people)", fontsize=9, color=INK)
    for (row, column), value in np.ndenumerate(labels.cooccurrence):
        if np.isfinite(value):
            colour = "white" if value > 0.6 else INK
            axes.text(
                column,
                row,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=min(8, 240 / len(names)),
                color=colour,
            )
    return figure
