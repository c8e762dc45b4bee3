"""Writes the shards of a part of a data set from the stored faces of its items, with one track in memory at a time."""

from __future__ import annotations

import io
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facscale.data import DataError, Dataset
from facscale.data.manifest import compute_checksum
from facscale.data.parquet import open_parquet
from facscale.data.storage import Folder
from facscale.data.writer import TrackWriter
from facscale.ingest import layouts, quality
from facscale.ingest.extract import ATTEMPTS, to_fixed_size_list
from facscale.ingest.parts import Part, PartItem, RowRange
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.spec import Pipeline

ROWS = 256  # read at a time
AHEAD, AHEAD_BYTES = 4, 64_000_000  # items that are read in advance, each up to this size
COPIED_COLUMNS = ("frame", "time_s", "jpeg", "landmarks", "flow", *quality.COLUMNS)


@dataclass(frozen=True)
class Merge:
    """What all parts of a data set share. `previous`: URL of the version in which items with `rows` are."""

    pipeline: Pipeline
    au: tuple[int, ...]
    run: str  # as for FaceExtractor
    previous: str = ""
    has_split: bool = False  # whether items with AUs belong to parts of a published split

    @property
    def settings(self) -> dict[str, Any]:
        """All that the shards depend on beside the items."""
        ingest = self.pipeline.ingest
        return {
            "au": list(self.au),
            "expressions": list(layouts.select_expressions(self.pipeline.source)),
            "split": self.has_split,
            "row_group_mb": ingest.row_group_mb,
            "shard_mb": ingest.shard_mb,
        }


class PartWriter:
    """Writes parts in one process."""

    def __init__(self, merge: Merge) -> None:
        self.merge, self.pipeline = merge, merge.pipeline
        self.folder, self.store = Folder(self.pipeline.output), WorkStore(self.pipeline.output)
        self.expressions = layouts.select_expressions(self.pipeline.source)

    def __call__(self, part: Part) -> None:
        """Write the shards of a part, then its record, then delete the faces that it was written from.

        Raises DataError if that is not possible.
        """
        name = f"{part.key}.tracks"
        if self.store.folder.exists(name):
            return
        if self.store.count_attempt(part.key, self.merge.run) > ATTEMPTS:
            raise DataError(
                f"{self.folder.url}: writing {part.name_shard(0)} crashed its worker process {ATTEMPTS} times; is "
                "there enough memory for ingest.row_group_mb and ingest.cpus_per_worker?"
            )
        try:
            self._write(part)
        except FileNotFoundError as error:
            if not self.store.folder.exists(name):  # otherwise another attempt was faster
                raise DataError(f"{self.store.url}: {error}: run the pipeline again") from None
        self.store.delete_files([f"{item.key}.parquet" for item in part.items if not item.rows])

    def _write(self, part: Part) -> None:
        self.store.folder.create()
        parent = str(self.store.folder.path) if self.folder.is_local else None
        with tempfile.TemporaryDirectory(prefix="spool-", dir=parent) as spool:
            writer = TrackWriter(
                self.folder,
                spool=Path(spool),
                name_shard=part.name_shard,
                au=self.merge.au,
                expressions=self.expressions,
                row_group_mb=self.pipeline.ingest.row_group_mb,
                shard_mb=self.pipeline.ingest.shard_mb if part.is_split else float("inf"),
                origin=part.key,
            )
            try:
                for item, tracks in self._read_items(part.items):
                    number = item.first_track
                    for track in tracks:
                        rows = complete_columns(
                            track,
                            item,
                            number=number,
                            au=self.merge.au,
                            stored=self._stored_au(item),
                            has_split=self.merge.has_split,
                        )
                        writer.add_track(rows, fps=item.fps, every=item.step)
                        number += not item.stills
                written = writer.finish()
            finally:
                writer.discard()
        self.store.save_part(part.key, written)

    def _stored_au(self, item: PartItem) -> tuple[int, ...]:
        return _open_previous(self.merge.previous).manifest.au if item.rows else item.au

    def _read_items(self, items: Sequence[PartItem]) -> Iterator[tuple[PartItem, Iterator[pa.Table]]]:
        """Yield the items with their tracks, each as one table. Small items are read in advance: a store answers late."""
        remaining, pending = iter(items), deque[tuple[PartItem, Future[bytes] | None]]()
        with ThreadPoolExecutor(AHEAD) as pool:

            def add_next() -> None:
                item = next(remaining, None)
                if item is not None:
                    is_read = not item.rows and item.face_bytes <= AHEAD_BYTES
                    pending.append((item, pool.submit(self._read_faces, item) if is_read else None))

            for _ in range(AHEAD):
                add_next()
            while pending:
                item, faces = pending.popleft()
                add_next()
                if item.rows:
                    rows = _read_rows(_open_previous(self.merge.previous), item.rows)
                    yield item, _split_tracks(rows, "identity" if item.stills else "track")
                elif faces:
                    yield item, _read_tracks(io.BytesIO(faces.result()))
                else:
                    with self.store.folder.open(f"{item.key}.parquet") as file:
                        yield item, _read_tracks(file)

    def _read_faces(self, item: PartItem) -> bytes:
        name = f"{item.key}.parquet"
        data = self.store.folder.read(name)
        if compute_checksum(data) != item.checksum:
            raise DataError(
                f"{self.store.url}/{name} is damaged: its checksum differs; delete {item.key}.json in that folder and run "
                "the pipeline again"
            )
        return data


def has_published_split(statuses: Sequence[ItemStatus]) -> bool:
    """Return whether items with AUs belong to parts of a published split."""
    return any(status.split and status.au for status in statuses if status.faces)


def find_most_common(statuses: Sequence[ItemStatus], name: str) -> Any:
    """Return the value of the field `name` that most of the faces have."""
    counts: Counter[Any] = Counter()
    for status in statuses:
        counts[getattr(status, name)] += status.faces
    return counts.most_common(1)[0][0]


def complete_columns(
    track: pa.Table, item: PartItem, *, number: int, au: Sequence[int], stored: Sequence[int], has_split: bool
) -> pa.Table:
    """Build a track with all columns of the data set; its own labels are of the AUs in `stored`, the others are -1.

    `has_split`: some items with AUs belong to a part of the published split.
    """
    rows = track.num_rows
    columns: dict[str, Any] = {
        "identity": track["identity"] if item.stills else pa.array([item.identity] * rows),
        "video": pa.array([item.video] * rows),
        "track": pa.array(np.full(rows, number, np.int32)),
        **{name: track[name] for name in COPIED_COLUMNS if name in track.column_names},
    }
    if "expression" in track.column_names:
        columns |= {"expression": track["expression"], "part": pa.array([item.part] * rows)}
    elif has_split:
        columns["part"] = pa.array([item.split] * rows)
    for name in ("au", "intensity") if au else ():
        values = np.full((rows, len(au)), -1, np.int8)
        if shared := [unit for unit in stored if unit in au]:
            labels = track[name].combine_chunks().flatten().to_numpy().reshape(rows, -1)
            values[:, [au.index(unit) for unit in shared]] = labels[:, [stored.index(unit) for unit in shared]]
        columns[name] = to_fixed_size_list(values)
    return pa.table(columns)


@lru_cache(maxsize=1)
def _open_previous(url: str) -> Dataset:
    """Return the version before; a worker process opens it once."""
    return Dataset(url)


def _read_rows(dataset: Dataset, ranges: Sequence[RowRange]) -> Iterator[pa.RecordBatch]:
    for rows in ranges:
        table = _read_row_group(dataset, rows.shard, rows.row_group).slice(rows.start, rows.count)
        yield from table.to_batches()


@lru_cache(maxsize=1)
def _read_row_group(dataset: Dataset, shard: int, row_group: int) -> pa.Table:
    """Return a row group; the next item often begins in the one in which the last has ended."""
    return dataset.read(shard=shard, row_group=row_group)


def _read_tracks(file: Any) -> Iterator[pa.Table]:
    """Yield each track in a file of the work store as one table."""
    yield from _split_tracks(open_parquet(file).iter_batches(batch_size=ROWS, use_threads=False), "track")


def _split_tracks(batches: Iterator[pa.RecordBatch], column: str) -> Iterator[pa.Table]:
    """Join and cut batches of rows where the value of a column changes."""
    pieces: list[pa.RecordBatch] = []
    for batch in batches:
        values = batch.column(column).to_numpy(zero_copy_only=False)
        edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
        for start, end in pairwise(edges):
            if pieces and pieces[-1].column(column)[0].as_py() != values[start]:
                yield pa.Table.from_batches(pieces)
                pieces = []
            pieces.append(batch.slice(start, end - start))
    if pieces:
        yield pa.Table.from_batches(pieces)
