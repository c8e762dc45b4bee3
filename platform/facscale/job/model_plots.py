"""Plots of what a trained model has learned: its embedding as a map, and where it looks."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from facscale.data import Dataset, augment
from facscale.data.augment import Augmenter
from facscale.data.stream import Stream
from facscale.data.views import Batch
from facscale.evaluate.protocol import LabelledDataset
from facscale.evaluate.subjects import find_frames
from facscale.inference.export import load_export
from facscale.inference.models import FrameEncoder, FrameModel
from facscale.job.evaluator import Evaluator, embed_frames
from facscale.job.plan import EvalNode
from facscale.job.variants import Variant
from facscale.names import sanitize_filename
from facscale.report import attention, embedding_map
from facscale.report.bundle import Report
from facscale.spec.models import EpochBlock

CANDIDATES = 32  # test samples of which the most expressive ones are shown
MAX_AUS = 6  # columns in a sheet of where a network looks


def plot_embedding(export: bytes, dataset: LabelledDataset, *, variant: Variant) -> Report:
    """The encoder's embedding of the first fold's test people, as `evaluate.map_frames` points."""
    people, wanted = dataset.split[0].test, variant.job.evaluate.map_frames
    if not (wanted and people):
        return Report()
    embeddings = embed_frames(FrameEncoder(load_export(export).encoder), dataset, job=variant.job)
    rows = np.flatnonzero(find_frames(people, identity=embeddings.identity))
    rows = rows[:: max(1, -(-len(rows) // wanted))]
    if len(rows) < embedding_map.MIN_FRAMES:
        return Report()
    frames = embeddings.select(rows)
    figure = embedding_map.plot_embedding_map(
        embedding_map.project_features(frames.features),
        identity=frames.identity,
        au=frames.au,
        aus=frames.aus,
        title=f"{variant.title}: {len(rows):,} frames of test people of {dataset.name}",
    )
    return Report(figures={f"map_{sanitize_filename(dataset.name)}": figure})


def plot_attention(node: EvalNode, export: bytes, *, evaluator: Evaluator) -> Report:
    """Where a model looks in faces of the first fold's test people. `export`: see `Evaluator.build_first_model`."""
    group, variant = node.group, node.variant
    dataset = group.sets[0]
    if not (variant.job.evaluate.attention_faces and dataset.split[0].test):
        return Report()
    model = evaluator.build_first_model(node, export)
    batch = read_expressive_faces(model, dataset, variant=variant)
    labels = next(iter(batch.values())).au
    au = labels[:, labels.shape[1] // 2].numpy()
    columns = choose_frequent_aus(np.where(np.isin(dataset.aus, group.aus), au, -1))
    try:
        maps = attention.compute_attention(model, batch)
    except ValueError:  # the model sees regions of faces only
        return Report()
    learned = [group.aus.index(dataset.aus[column]) for column in columns]
    figure = attention.plot_attention(
        maps._replace(logits=maps.logits[:, learned], maps=maps.maps[:, learned]),
        au=au[:, columns],
        aus=tuple(dataset.aus[column] for column in columns),
        title=f"{variant.title}: where it looks, in test people of {dataset.name}",
    )
    return Report(figures={f"attention_{sanitize_filename(dataset.name)}": figure})


def read_expressive_faces(model: FrameModel, dataset: LabelledDataset, *, variant: Variant) -> Batch:
    """Read `evaluate.attention_faces` samples with the most AUs, not augmented, of different people as far as possible."""
    job = variant.job
    views = {name: view.with_columns("au") for name, view in model.views.items()}
    spec = job.data.model_copy(update={"augment": augment.eval_config(job.data.augment), "epoch": EpochBlock()})
    stream = Stream(
        [Dataset(dataset.url)],
        views,
        spec=spec,
        batch_size=CANDIDATES,
        seed=job.evaluate.seed,
        subjects={dataset.url: dataset.split[0].test},
        is_short=True,
    )
    with closing(stream.batches()) as batches:
        batch = Augmenter(size=job.data.image_size)(next(batches))
    faces = next(iter(batch.values()))
    positives = (faces.au[:, faces.au.shape[1] // 2] == 1).sum(dim=1).numpy()
    order = put_identities_first(np.argsort(-positives, kind="stable"), faces.identity.numpy())
    return Batch({name: view.select(order[: job.evaluate.attention_faces]) for name, view in batch.items()})


def choose_frequent_aus(au: np.ndarray) -> list[int]:
    """The columns of labels [N, n] with the most positives, in their order; columns without any label are left out."""
    best = np.argsort(-(au == 1).sum(axis=0), kind="stable")[:MAX_AUS]
    return sorted(column for column in best.tolist() if (au[:, column] >= 0).any())


def put_identities_first(order: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Reorder: first the first occurrence of every identity, then all others."""
    first = np.sort(np.unique(identity[order], return_index=True)[1])
    return np.concatenate([order[first], np.delete(order, first)])
