"""Merges the stored faces of all items into the shards of a data set, with one track in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data import ShardWriter
from facscale.data.manifest import Manifest
from facscale.ingest import layouts, quality
from facscale.ingest.extract import to_fixed_size_list
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.spec import Pipeline

ROWS = 256  # read at a time
COPIED_COLUMNS = ("frame", "time_s", "jpeg", "landmarks", "flow", *quality.COLUMNS)


def merge_items(
    statuses: Sequence[ItemStatus],
    *,
    pipeline: Pipeline,
    store: WorkStore,
    recipe: dict[str, Any],
    advance: Callable[[], None],
) -> Manifest:
    """Write the data set at `pipeline.output` from `statuses` in sorted order; `advance` is called after each item.

    Raises DataError.
    """
    with_faces = [status for status in statuses if status.faces]
    au = sorted({number for status in with_faces for number in status.au})
    writer = ShardWriter(
        pipeline.output,
        name=pipeline.name,
        au=au,
        expressions=layouts.select_expressions(pipeline.source),
        image_size=pipeline.crop.stored_size,
        margin=pipeline.crop.margin,
        fps=find_most_common(with_faces, "fps"),
        every=find_most_common(with_faces, "step"),
        recipe=recipe,
        row_group_mb=pipeline.ingest.row_group_mb,
        shard_mb=pipeline.ingest.shard_mb,
    )
    with writer:
        video, number = ("", ""), 0
        for status in with_faces:
            if status.sort_key[:2] != video:
                video, number = (status.identity, status.video), 0
            for track in _read_tracks(store, status):
                columns = _complete_columns(track, status, number=number, au=au)
                writer.add_track(columns, fps=status.fps, every=status.step)
                number += not status.stills
            advance()
        return writer.close()


def find_most_common(statuses: Sequence[ItemStatus], name: str) -> Any:
    """Return the value of the field `name` that most of the faces have."""
    counts: Counter[Any] = Counter()
    for status in statuses:
        counts[getattr(status, name)] += status.faces
    return counts.most_common(1)[0][0]


def _read_tracks(store: WorkStore, status: ItemStatus) -> Iterator[pa.Table]:
    """Yield each track of an item as one table."""
    pieces: list[pa.RecordBatch] = []
    with store.folder.open(f"{status.key}.parquet") as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS, use_threads=False):
            numbers = batch.column("track").to_numpy()
            edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
            for start, end in pairwise(edges):
                if pieces and pieces[-1].column("track")[0].as_py() != numbers[start]:
                    yield pa.Table.from_batches(pieces)
                    pieces = []
                pieces.append(batch.slice(start, end - start))
    if pieces:
        yield pa.Table.from_batches(pieces)


def _complete_columns(track: pa.Table, status: ItemStatus, *, number: int, au: Sequence[int]) -> pa.Table:
    """Build a track with all columns of the data set: AUs that its item does not label are -1."""
    rows = track.num_rows
    columns: dict[str, Any] = {
        "identity": track["identity"] if status.stills else pa.array([status.identity] * rows),
        "video": pa.array([status.video] * rows),
        "track": pa.array(np.full(rows, number, np.int32)),
        **{name: track[name] for name in COPIED_COLUMNS if name in track.column_names},
    }
    if "expression" in track.column_names:
        columns |= {"expression": track["expression"], "part": pa.array([status.part] * rows)}
    for name in ("au", "intensity") if au else ():
        values = np.full((rows, len(au)), -1, np.int8)
        if status.au:
            positions = [au.index(unit) for unit in status.au]
            values[:, positions] = track[name].combine_chunks().flatten().to_numpy().reshape(rows, -1)
        columns[name] = to_fixed_size_list(values)
    return pa.table(columns)
