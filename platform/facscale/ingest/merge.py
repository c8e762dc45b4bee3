"""From parts to shards: all parts in order, one track in memory at a time."""

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
from facscale.ingest import layouts
from facscale.ingest.extract import fixed
from facscale.ingest.parts import Parts, Status
from facscale.spec import Pipeline

ROWS = 256


def merge(
    statuses: Sequence[Status], *, pipeline: Pipeline, parts: Parts, recipe: dict[str, Any], advance: Callable[[], None]
) -> Manifest:
    """Write the data set at `pipeline.output` from `statuses` in sorted order. Raises DataError."""
    full = [status for status in statuses if status.faces]
    au = sorted({number for status in full for number in status.au})
    writer = ShardWriter(
        pipeline.output,
        name=pipeline.name,
        au=au,
        expressions=layouts.expressions(pipeline.source),
        image_size=pipeline.crop.size,
        fps=most_common(full, "fps"),
        every=most_common(full, "step"),
        recipe=recipe,
        row_group_mb=pipeline.ingest.row_group_mb,
        shard_mb=pipeline.ingest.shard_mb,
    )
    with writer:
        video, number = ("", ""), 0
        for status in full:
            if status.order[:2] != video:
                video, number = (status.identity, status.video), 0
            for track in _tracks(parts, status):
                writer.add_track(_finished(track, status, number=number, au=au))
                number += not status.stills
            advance()
        return writer.close()


def most_common(statuses: Sequence[Status], name: str) -> Any:
    """The value that holds for most of the faces."""
    counts: Counter[Any] = Counter()
    for status in statuses:
        counts[getattr(status, name)] += status.faces
    return counts.most_common(1)[0][0]


def _tracks(parts: Parts, status: Status) -> Iterator[pa.Table]:
    """The tracks of one part, each as one table."""
    held: list[pa.RecordBatch] = []
    with parts.folder.open(f"{status.key}.parquet") as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS, use_threads=False):
            numbers = batch.column("track").to_numpy()
            edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
            for start, end in pairwise(edges):
                if held and held[-1].column("track")[0].as_py() != numbers[start]:
                    yield pa.Table.from_batches(held)
                    held = []
                held.append(batch.slice(start, end - start))
    if held:
        yield pa.Table.from_batches(held)


def _finished(track: pa.Table, status: Status, *, number: int, au: Sequence[int]) -> pa.Table:
    """A track with all columns of the data set."""
    rows = track.num_rows
    columns: dict[str, Any] = {
        "identity": track["identity"] if status.stills else pa.array([status.identity] * rows),
        "video": pa.array([status.video] * rows),
        "track": pa.array(np.full(rows, number, np.int32)),
        **{
            name: track[name] for name in ("frame", "time_s", "jpeg", "landmarks", "flow") if name in track.column_names
        },
    }
    if status.stills:
        columns |= {"expression": track["expression"], "part": pa.array([status.part] * rows)}
    for name in ("au", "intensity") if au else ():
        values = np.full((rows, len(au)), -1, np.int8)
        if status.au:
            places = [au.index(unit) for unit in status.au]
            values[:, places] = track[name].combine_chunks().flatten().to_numpy().reshape(rows, -1)
        columns[name] = fixed(values)
    return pa.table(columns)
