"""Pictures of what a trained row has learned: its embedding as a map, and where it looks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from facscale.data import Dataset, augment
from facscale.data.augment import Augmenter
from facscale.data.stream import Stream
from facscale.data.views import Batch
from facscale.evaluate import frames_of
from facscale.inference import export
from facscale.inference.embed import Embeds, OfFace
from facscale.job.judge import embedded
from facscale.job.labelled import Group, Labelled
from facscale.job.variants import Variant
from facscale.names import file_name
from facscale.report.attention import attention, attention_sheet
from facscale.report.maps import FEWEST, embedding_map, plane
from facscale.track.tracker import Run

CANDIDATES = 32  # test frames of which the most expressive ones are shown
COLUMNS = 6  # AUs in a sheet of where a network looks


def draw_map(exported: bytes, *, row: Variant, on: Labelled, tracker: Run) -> None:
    """The encoder's embedding of the first fold's test people, as `evaluate.map_frames` points."""
    people = on.split[0].test
    if not (row.job.evaluate.map_frames and people):
        return
    found = embedded(OfFace(export.load(exported).encoder), job=row.job, on=on)
    rows = np.flatnonzero(frames_of(people, identity=found.identity))
    rows = rows[:: max(1, -(-len(rows) // row.job.evaluate.map_frames))]
    if len(rows) < FEWEST:
        return
    some = found.chosen(rows)
    figure = embedding_map(
        plane(some.features), identity=some.identity, au=some.au, aus=some.aus,
        title=f"{row.title}: {len(rows):,} frames of people of {on.name} who are tested",
    )  # fmt: skip
    tracker.figure(figure, f"map_{file_name(on.name)}")


def draw_attention(ask: Callable[[], Embeds], *, row: Variant, on: Group, tracker: Run) -> None:
    """Where the model that `ask` makes, which tells the AUs of the group, looks in faces of the first fold's test people."""
    data = on.sets[0]
    if not (row.job.evaluate.attention_faces and data.split[0].test):
        return
    model = ask()
    batch = expressive(model, row=row, on=data)
    labels = next(iter(batch.values())).au
    au = labels[:, labels.shape[1] // 2].numpy()
    both = most_seen(np.where(np.isin(data.aus, on.aus), au, -1))
    try:
        found = attention(model, batch)
    except ValueError:  # it looks at regions alone
        return
    columns = [on.aus.index(data.aus[column]) for column in both]
    shown = found._replace(logits=found.logits[:, columns], maps=found.maps[:, columns])
    about = f"{row.title}: where it looks, in people of {data.name} who are tested"
    aus = tuple(data.aus[column] for column in both)
    tracker.figure(attention_sheet(shown, au=au[:, both], aus=aus, title=about), f"attention_{file_name(data.name)}")


def expressive(model: Embeds, *, row: Variant, on: Labelled) -> Batch:
    """`evaluate.attention_faces` samples with the most AUs, of different people as far as there are some, not augmented."""
    views = {name: view.with_columns("au") for name, view in model.views.items()}
    spec = row.job.data.model_copy(update={"augment": augment.plain(row.job.data.augment), "per_track": 1})
    people = {on.url: on.split[0].test}
    stream = Stream(
        [Dataset(on.url)], views, spec=spec, batch_size=CANDIDATES, seed=row.job.evaluate.seed, subjects=people
    )
    with closing(stream.batches()) as batches:
        batch = Augmenter(size=row.job.data.image_size)(next(batches))
    faces = next(iter(batch.values()))
    shown = (faces.au[:, faces.au.shape[1] // 2] == 1).sum(dim=1).numpy()
    chosen = distinct(np.argsort(-shown, kind="stable"), faces.identity.numpy())
    return Batch({name: one.chosen(chosen[: row.job.evaluate.attention_faces]) for name, one in batch.items()})


def most_seen(au: np.ndarray) -> list[int]:
    """The columns of labels [N, n] with the most positives, in the order of the columns; without any label none is."""
    best = np.argsort(-(au == 1).sum(axis=0), kind="stable")[:COLUMNS]
    return sorted(column for column in best.tolist() if (au[:, column] >= 0).any())


def distinct(order: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """The same numbers, those first that are the first of their identity."""
    seen = np.unique(identity[order], return_index=True)[1]
    first = np.sort(seen)
    return np.concatenate([order[first], np.delete(order, first)])
