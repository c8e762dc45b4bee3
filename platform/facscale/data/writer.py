"""Writes a data set track by track; `shards.py` describes the files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data.errors import DataError
from facscale.data.manifest import INDEX, MANIFEST, Manifest, RowGroup, Shard, compute_checksum, compute_fingerprint
from facscale.data.storage import Folder

MB = 1_000_000
log = logging.getLogger(__name__)
LANDMARKS = 68
INDEX_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in ("shard", "row_group", "start", "frames")),
        ("identity", pa.string()),
        ("video", pa.string()),
        ("track", pa.int32()),
        ("first_frame", pa.int32()),
    ]
)
TIMING_SCHEMA = pa.schema([("fps", pa.float32()), ("every", pa.int32())])  # data sets of earlier releases lack it
BASE_SCHEMA = pa.schema(
    [
        ("identity", pa.string()),
        ("video", pa.string()),
        ("track", pa.int32()),
        ("frame", pa.int32()),
        ("time_s", pa.float32()),
        ("jpeg", pa.binary()),
        ("landmarks", pa.list_(pa.float32(), 2 * LANDMARKS)),
    ]
)


def build_schema(au: Sequence[int], *, expressions: Sequence[str] = ()) -> pa.Schema:
    """Return the required columns: those of every data set, and labels where there are AUs or expression classes."""
    labels = [(name, pa.list_(pa.int8(), len(au))) for name in ("au", "intensity")] if au else []
    labels += [("expression", pa.int8()), ("part", pa.string())] if expressions else []
    return pa.schema([*BASE_SCHEMA, *labels])


@dataclass(frozen=True)
class _Piece:
    """A track, or a part of a long one, and its timing."""

    table: pa.Table
    fps: float
    every: int


@dataclass
class _RowGroupBuffer:
    """What is collected for the next row group."""

    pieces: list[_Piece] = field(default_factory=list)
    bytes: int = 0


class ShardWriter:
    """Writes one data set into an empty folder at any URL; a context manager that discards everything on an error.

    Shards are spooled on local disk and then put in place complete; the manifest is written last.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        au: Sequence[int] = (),
        expressions: Sequence[str] = (),
        image_size: int,
        margin: float = 0.0,
        fps: float,
        recipe: Mapping[str, Any],
        every: int = 1,
        row_group_mb: float = 8.0,
        shard_mb: float = 256.0,
    ) -> None:
        """Prepare the folder. `image_size`, `margin`: of the stored images, see `Manifest`.

        `every`: only each n-th source frame is stored, so frames n apart are neighbours in a run.

        `fps` and `every` are those of most tracks; `add_track` takes those of a track that differs.

        `expressions`: names of the classes 0, 1, ... of the column `expression` (-1: none); the column `part` then holds
        the part of the published split that a frame belongs to, "train" or "test".

        Raises DataError if the folder already holds a data set or cannot be written.
        """
        self._folder = Folder(url)
        if self._folder.exists(MANIFEST):
            raise DataError(
                f"{url} already holds a data set, and data sets never change; give the new one another folder"
            )
        self._folder.create()
        self._description: dict[str, Any] = {"name": name, "au": tuple(au), "image_size": image_size, "fps": fps}
        self._description |= {"recipe": dict(recipe), "expressions": tuple(expressions), "margin": margin}
        self._schema = build_schema(au, expressions=expressions)
        self._fps, self._every, self._group_bytes, self._shard_bytes = (
            fps,
            every,
            int(row_group_mb * MB),
            int(shard_mb * MB),
        )
        spool_parent = str(self._folder.path) if self._folder.is_local else None
        self._spool = tempfile.TemporaryDirectory(prefix=".spool-", dir=spool_parent)
        self._pending = _RowGroupBuffer()
        self._shards: list[Shard] = []
        self._index: list[dict[str, Any]] = []
        self._last_track: tuple[str, str, int] | None = None
        self._counts = {"identities": 0, "videos": 0, "tracks": 0, "frames": 0, "labelled_frames": 0}
        self._parquet: pq.ParquetWriter | None = None
        self._groups_of_shard = 0

    def add_track(self, rows: pa.Table, *, fps: float | None = None, every: int | None = None) -> None:
        """Add all frames of ONE (identity, video, track), ascending by frame; tracks are added in sorted order.

        `fps` and `every` are the track's own, where they differ from those of the data set.

        `rows` has the columns of `build_schema`; further ones are kept (the same for every track). Raises DataError
        for anything else.
        """
        if not rows.num_rows:
            return
        table = self._validate_track(rows)
        size = table.nbytes
        parts = max(1, -(-size // self._group_bytes))
        if self._pending.bytes + size > self._group_bytes:
            self._flush()
        for part in range(parts):
            first, last = (table.num_rows * edge // parts for edge in (part, part + 1))
            if part:
                self._flush()
            piece = table.slice(first, last - first)
            self._pending.pieces.append(
                _Piece(piece, self._fps if fps is None else fps, self._every if every is None else every)
            )
            self._pending.bytes += size // parts

    def close(self) -> Manifest:
        """Write the pending rows, then the index, then the manifest. Raises DataError if nothing was added."""
        self._flush()
        self._finish_shard()
        if self._counts["frames"] > self._counts["tracks"] and all(run["frames"] == 1 for run in self._index):
            log.warning("%s: no two frames are %d apart, so every run is one frame", self._folder.url, self._every)
        if not self._shards:
            self._spool.cleanup()
            raise DataError(f"{self._folder.url}: not one face track was added, so there is no data set to write")
        index = Path(self._spool.name) / INDEX
        pq.write_table(
            pa.Table.from_pylist(self._index, schema=pa.schema([*INDEX_SCHEMA, *TIMING_SCHEMA])),
            index,
            compression="zstd",
        )
        manifest = Manifest(
            **self._description,
            counts=self._counts,
            shards=tuple(self._shards),
            fingerprint=compute_fingerprint(name=self._description["name"], schema=self._schema, shards=self._shards),
            index_checksum=compute_checksum(index.read_bytes()),
        )
        text = Path(self._spool.name) / MANIFEST
        text.write_text(manifest.to_json(), encoding="utf-8")
        for file in (index, text):
            self._folder.put(file.name, source=file)
        self._spool.cleanup()
        return manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._spool is not None and Path(self._spool.name).exists():
                self.close()
            return
        if self._parquet is not None:
            self._parquet.close()
        self._spool.cleanup()

    def _validate_track(self, rows: pa.Table) -> pa.Table:
        """Return `rows` with the data set's column order and types. Raises DataError where `add_track` does."""
        if missing := [name for name in self._schema.names if name not in rows.column_names]:
            raise DataError(f"{self._folder.url}: a track without the column(s) {', '.join(missing)}")
        if self._last_track is None:  # the first track determines the further columns
            extra = [column for column in rows.schema if column.name not in self._schema.names]
            self._schema = pa.schema([*self._schema, *extra])
        try:
            table = rows.select(self._schema.names).cast(self._schema)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{self._folder.url}: a track's columns do not fit: {error}") from None
        first, last = (tuple(table[name][row].as_py() for name in ("identity", "video", "track")) for row in (0, -1))
        single = all(len(table[name].unique()) == 1 for name in ("identity", "video", "track"))
        if not single or (self._last_track is not None and first <= self._last_track):
            raise DataError(
                f"{self._folder.url}: the track {first} after {self._last_track}: add tracks one at a time, each once, "
                "sorted by (identity, video, track)"
            )
        if np.any(np.diff(table["frame"].to_numpy()) <= 0):
            raise DataError(f"{self._folder.url}: the frames of track {first} are not ascending")
        self._update_counts(table, previous=self._last_track, current=last)
        self._last_track = last
        return table

    def _update_counts(
        self, table: pa.Table, *, previous: tuple[str, str, int] | None, current: tuple[str, str, int]
    ) -> None:
        self._counts["identities"] += previous is None or previous[0] != current[0]
        self._counts["videos"] += previous is None or previous[:2] != current[:2]
        self._counts["tracks"] += 1
        self._counts["frames"] += table.num_rows
        if self._description["au"]:
            labels = table["au"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
            self._counts["labelled_frames"] += int((labels >= 0).any(axis=1).sum())
        elif self._description["expressions"]:
            self._counts["labelled_frames"] += int((table["expression"].to_numpy() >= 0).sum())

    def _flush(self) -> None:
        """Write the pending tracks as one row group."""
        if not self._pending.pieces:
            return
        if self._parquet is None:
            names = [name for name in self._schema.names if name != "jpeg"]
            self._parquet = pq.ParquetWriter(
                Path(self._spool.name) / self._shard_name,
                self._schema,
                compression="none",  # JPEGs do not shrink, and everything else is small beside them
                use_dictionary=["identity", "video"],
                write_statistics=names,  # the smallest and largest JPEG would be stored a second time
                write_page_checksum=True,
            )
        row = 0
        for piece in self._pending.pieces:
            self._add_runs(piece, row=row)
            row += piece.table.num_rows
        tables = [piece.table for piece in self._pending.pieces]
        self._parquet.write_table(pa.concat_tables(tables), row_group_size=row)
        self._groups_of_shard += 1
        self._pending = _RowGroupBuffer()
        if (Path(self._spool.name) / self._shard_name).stat().st_size >= self._shard_bytes:
            self._finish_shard()

    @property
    def _shard_name(self) -> str:
        return f"shard-{len(self._shards):05d}.parquet"

    def _add_runs(self, piece: _Piece, *, row: int) -> None:
        table, frames = piece.table, piece.table["frame"].to_numpy()
        edges = np.flatnonzero(np.diff(frames) != piece.every) + 1
        for start, end in zip([0, *edges], [*edges, len(frames)], strict=True):
            self._index.append(
                {
                    "shard": len(self._shards),
                    "row_group": self._groups_of_shard,
                    "start": row + int(start),
                    "frames": int(end - start),
                    "identity": table["identity"][0].as_py(),
                    "video": table["video"][0].as_py(),
                    "track": table["track"][0].as_py(),
                    "first_frame": int(frames[start]),
                    "fps": piece.fps,
                    "every": piece.every,
                }
            )

    def _finish_shard(self) -> None:
        """Close the open shard, compute its checksums and put it in place."""
        if self._parquet is None:
            return
        self._parquet.close()
        self._parquet, self._groups_of_shard = None, 0
        path = Path(self._spool.name) / self._shard_name
        metadata = pq.read_metadata(path)
        with pa.memory_map(str(path)) as file:
            groups = tuple(
                _describe_row_group(file, metadata.row_group(number)) for number in range(metadata.num_row_groups)
            )
        shard = Shard(file=path.name, bytes=path.stat().st_size, rows=metadata.num_rows, row_groups=groups)
        self._folder.put(path.name, source=path)
        path.unlink()
        self._shards.append(shard)


def _describe_row_group(file: pa.MemoryMappedFile, group: pq.RowGroupMetaData) -> RowGroup:
    starts, ends = [], []
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        starts.append(start)
        ends.append(start + column.total_compressed_size)
    offset, length = min(starts), max(ends) - min(starts)
    return RowGroup(
        offset=offset, length=length, rows=group.num_rows, checksum=compute_checksum(file.read_at(length, offset))
    )
