"""What a job keeps beside its metrics: tables, figures, predictions, and the encoder itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from safetensors.torch import save_file

from facscale.data import Dataset
from facscale.evaluate import Row
from facscale.evaluate.across import Across, Cell
from facscale.evaluate.predictions import Predictions, matched
from facscale.evaluate.relations import adjacency
from facscale.evaluate.significance import compared
from facscale.job.labelled import Group, Labelled
from facscale.job.variants import Variant, digest
from facscale.methods import Method
from facscale.names import file_name
from facscale.report import figures
from facscale.report.summary import Summary
from facscale.report.table import Table
from facscale.report.timelines import timeline
from facscale.track.encoder import log_encoder
from facscale.track.tracker import Run
from facscale.train.probe import some_frames

LINES = 4  # methods in one video's course: more cannot be told apart


def tell_table(table: Table, *, title: str, console: Console, tracker: Run) -> None:
    """F1 of all rows on one data set."""
    console.print(table.rich(title=f"F1 x 100 on {title}"))
    tracker.figure(figures.f1_bars(table, title=f"F1 on {title}"), f"f1_{file_name(title)}")
    tracker.text(table.csv(), f"f1_{file_name(title)}.csv")
    tracker.text(table.json(), f"f1_{file_name(title)}.json")


def tell_comparison(
    rows: Sequence[Sequence[Predictions]], *, title: str, threshold: float, console: Console, tracker: Run
) -> None:
    """Rows, each one's seeds, against the first one on the same frames: how sure a difference is, AUs, one video's course."""
    if len(rows) < 2:
        return
    same = iter(matched([seed for row in rows for seed in row]))
    methods = [[next(same) for _ in row] for row in rows]
    comparison = compared(methods, threshold=threshold)
    first = "; pairs and errors: first seeds" if max(map(len, rows)) > 1 else ""
    console.print(comparison.rich(title=f"Beside {comparison.rows[0].name} on {title} (F1 with 95 % intervals{first})"))
    tracker.text(comparison.csv(), f"comparison_{file_name(title)}.csv")
    tracker.text(comparison.markdown(), f"comparison_{file_name(title)}.md")
    shown = [seeds[0].once() for seeds in methods[:LINES]]
    video = shown[0].video_with_most_change()
    course = [method.of(*video) for method in shown]
    about = f"{title}: {video.video} of {video.identity}, whom none has seen"
    tracker.figure(timeline(course, threshold=threshold, title=about), f"timeline_{file_name(title)}")


def tell_across(tables: Mapping[str, Table], parts: Sequence[Group], *, console: Console, tracker: Run) -> None:
    """Mean F1 of each row by what it learned from and what it was tested on; `tables`: by title."""
    where = {part.titled(data): (part.name, data.name) for part in parts for data, _ in part.tests(0)}
    cells = [Cell(row.name, *where[title], row.mean) for title, table in tables.items() for row in table.rows]
    found = Across(tuple(cells))
    console.print(found.rich(title="F1 x 100 by data set, over the AUs that are both learned and labelled"))
    tracker.text(found.csv(), "across.csv")
    tracker.text(found.markdown(), "across.md")
    tracker.figure(found.figure(title="F1 x 100 across data sets"), "across")


def tell_efficiency(rows: Mapping[str, Row], variants: Sequence[Variant], *, title: str, tracker: Run) -> None:
    """F1 against the number of people learned from (RTATL's Figure 4), where rows of one method differ in that."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for name, alike in same_but_for_people([one for one in variants if one.name in rows]).items():
        lines[name] = sorted((one.job.evaluate.subjects, 100 * rows[one.name].mean) for one in alike)
    if lines:
        series = {name: ([x for x, _ in points], [y for _, y in points]) for name, points in lines.items()}
        about = f"F1 x 100 on {title} by people learned from"
        tracker.figure(figures.curves(series, title=about, y="F1 x 100", x="people"), f"people_{file_name(title)}")


def same_but_for_people(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Rows that differ in `evaluate.subjects` alone, two or more; under the name of the one with the most people."""
    groups: dict[str, list[Variant]] = {}
    for one in variants:
        if one.job.evaluate.subjects:
            said = one.said()
            said["evaluate"] = {"protocol": said["evaluate"]["protocol"]}
            groups.setdefault(digest([said]), []).append(one)
    most = {max(alike, key=lambda one: one.job.evaluate.subjects).name: alike for alike in groups.values()}
    return {name: alike for name, alike in most.items() if len(alike) > 1}


def tell_summary(worth: Mapping[str, Sequence[Mapping[str, float]]], *, console: Console, tracker: Run) -> None:
    """What the encoders hold beyond F1: figures by row and seed."""
    summary = Summary({name: list(values) for name, values in worth.items()})
    console.print(summary.rich(title="What the encoders hold, and what their training cost"))
    tracker.text(summary.csv(), "summary.csv")
    tracker.text(summary.markdown(), "summary.md")


def keep_predictions(predictions: Predictions, *, title: str, threshold: float, tracker: Run) -> None:
    """What was said of every test frame, as Parquet; and how AUs go together in it and in the labels (AUNet's Figure 8)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"predictions_{file_name(title)}.parquet"
        file.write_bytes(predictions.parquet())
        tracker.artifact(file)
    labels = [f"AU{au}" for au in predictions.aus]
    for name, values in adjacency(predictions, threshold=threshold)._asdict().items():
        about = f"{predictions.name}: AUs together, {name}, on {title}"
        tracker.figure(figures.heatmap(values, labels=labels, title=about), f"together_{name}_{file_name(title)}")


def draw_lengths(lengths: Mapping[str, Sequence[float]], *, tracker: Run, title: str) -> None:
    """How far the movements of a method that moves pixels reach."""
    if lengths:
        about = f"{title}: mean length of movements, where an image is 2 long"
        tracker.figure(figures.histogram(lengths, title=about, x="length"), "movement_lengths")


def draw_matrices(method: Method, *, tracker: Run, title: str) -> None:
    """What a method has learned about pairs of AUs, if it tells something."""
    labels = [f"AU{au}" for au in method.facts.aus]
    for name, values in method.matrices().items():
        figure = figures.heatmap(values.detach().numpy(), labels=labels, title=f"{title}: {name}")
        tracker.figure(figure, name.replace(" ", "_"))


def keep_export(exported: bytes, *, tracker: Run) -> None:
    """A trained method as a file: `method.safetensors`."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "method.safetensors"
        whole.write_bytes(exported)
        tracker.artifact(whole)


def log_export(method: Method, exported: bytes, *, row: Variant, tracker: Run, on: Sequence[Labelled]) -> None:
    """The encoder as safetensors and as a loadable MLflow model, and a contact sheet of what it was judged on."""
    size = row.job.data.image_size
    keep_export(exported, tracker=tracker)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "encoder.safetensors"
        save_file(
            {f"encoder.{name}": value.contiguous() for name, value in method.encoder.state_dict().items()}, weights
        )
        about = {"encoder": "facscale.inference.export:Exported", "options": asdict(method.recipe)}
        log_encoder(tracker, weights=weights, config=about, example=np.zeros((2, 3, size, size), np.float32))
    if on:
        images, _, identities = some_frames(Dataset(on[0].url), count=24)
        sheet = figures.contact_sheet(images[:24], labels=list(identities[:24]), title=on[0].name)
        tracker.figure(sheet, "contact_sheet")


def register_encoder(scores: Mapping[str, float], *, row: Variant, tracker: Run, tags: Mapping[str, str]) -> None:
    """The logged encoder as a version of the registered model of its method; scores: mean F1 in [0, 1] by data set."""
    told = ", ".join(f"{100 * value:.1f} on {title}" for title, value in scores.items())
    kept = {name: tags[name] for name in ("job", "row", "cluster", "data", "git.commit")}
    about = f"{row.title}, of the job {tags['job']}: F1 x 100 is {told}" if told else f"{row.title}: never judged"
    tracker.register(row.job.method.name, scores=scores, tags=kept, description=about)


def note(tables: Mapping[str, Table], *, main: Variant) -> str:
    """What stands at the top of the job's page in MLflow, as Markdown: the tables of F1, then what the file says."""
    parts = [f"**F1 x 100 on {title}**\n\n{table.markdown()}" for title, table in tables.items()]
    spec = yaml.safe_dump(json.loads(json.dumps(main.document.data, default=str)), sort_keys=False)
    return "\n".join([*parts, f"```yaml\n{spec}```\n"])
