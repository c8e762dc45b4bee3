"""Writes a data set track by track; `shards.py` describes the files.

`ShardWriter` writes a whole data set. Several processes can write one together: each writes consecutive tracks with a
`TrackWriter`, and `finish_dataset` joins the results in their order.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from facscale.data.errors import DataError
from facscale.data.frame_table import build_frame_table
from facscale.data.manifest import (
    FRAME_ENTRY_BYTES,
    INDEX,
    MANIFEST,
    Manifest,
    RowGroup,
    Shard,
    compute_checksum,
    compute_fingerprint,
)
from facscale.data.parquet import read_parquet
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


def normalize_columns(schema: pa.Schema) -> pa.Schema:
    """Return a schema as it is before it is written: Parquet gives the values of lists another name."""
    return pa.schema(
        pa.field(column.name, pa.list_(column.type.value_type, column.type.list_size))
        if pa.types.is_fixed_size_list(column.type)
        else pa.field(column.name, column.type)
        for column in schema
    )


@dataclass(frozen=True)
class WrittenTracks:
    """Shards of consecutive tracks, already in place, and what the manifest and the index of their data set need."""

    shards: tuple[Shard, ...]
    index: pa.Table  # one row per run; its column `shard` counts from 0
    columns: pa.Schema

    def to_bytes(self) -> bytes:
        """Serialize as a Parquet file of the index, with the rest in its metadata."""
        metadata = {
            "shards": json.dumps([asdict(shard) for shard in self.shards]).encode(),
            "columns": self.columns.serialize().to_pybytes(),
        }
        sink = pa.BufferOutputStream()
        pq.write_table(self.index.replace_schema_metadata(metadata), sink, compression="zstd")
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse the output of `to_bytes`."""
        table = read_parquet(data)
        metadata = table.schema.metadata
        return cls(
            shards=TypeAdapter(tuple[Shard, ...]).validate_json(metadata[b"shards"]),
            index=table.replace_schema_metadata(None),
            columns=pa.ipc.read_schema(pa.BufferReader(metadata[b"columns"])),
        )


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


class TrackWriter:
    """Writes consecutive tracks of a data set into shards, which are spooled on local disk and put in place complete."""

    def __init__(
        self,
        folder: Folder,
        *,
        spool: Path,
        name_shard: Callable[[int], str],
        au: Sequence[int] = (),
        expressions: Sequence[str] = (),
        row_group_mb: float = 8.0,
        shard_mb: float = 256.0,
        origin: str = "",
    ) -> None:
        """Write to `folder`, through the local folder `spool`. `name_shard` names the n-th shard, from 0.

        `origin` is stored with each shard. `au`, `expressions`: as for `ShardWriter`.
        """
        self._folder, self._spool, self._name_shard, self._origin = folder, spool, name_shard, origin
        self._schema = build_schema(au, expressions=expressions)
        self._labels = "au" if au else "expression" if expressions else ""
        self._group_bytes, self._shard_bytes = int(row_group_mb * MB), shard_mb * MB
        self._pending = _RowGroupBuffer()
        self._shards: list[Shard] = []
        self._index: list[dict[str, Any]] = []
        self._last_track: tuple[str, str, int] | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._sink: pa.NativeFile | None = None  # that the Parquet writer and, between row groups, we write to
        self._groups_of_shard = self._labelled_of_shard = 0

    def add_track(self, rows: pa.Table, *, fps: float, every: int) -> None:
        """Add all frames of ONE (identity, video, track), ascending by frame; tracks are added in sorted order.

        `fps` and `every` are those of the track. `rows` has the columns of `build_schema`; further ones are kept (the same
        for every track). Raises DataError for anything else.
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
            self._pending.pieces.append(_Piece(table.slice(first, last - first), fps, every))
            self._pending.bytes += size // parts

    def finish(self) -> WrittenTracks:
        """Write the pending rows and put the last shard in place."""
        self._flush()
        self._finish_shard()
        schema = pa.schema([*INDEX_SCHEMA, *TIMING_SCHEMA])
        return WrittenTracks(tuple(self._shards), pa.Table.from_pylist(self._index, schema=schema), self._schema)

    def discard(self) -> None:
        """Close the open shard without putting it in place."""
        if self._parquet is not None and self._sink is not None:
            self._parquet.close()
            self._sink.close()

    def _validate_track(self, rows: pa.Table) -> pa.Table:
        """Return `rows` with the data set's column order and types. Raises DataError where `add_track` does."""
        if missing := [name for name in self._schema.names if name not in rows.column_names]:
            raise DataError(f"{self._folder.url}: a track without the column(s) {', '.join(missing)}")
        if self._last_track is None:  # the first track determines the further columns
            extra = [column for column in normalize_columns(rows.schema) if column.name not in self._schema.names]
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
        self._last_track = last
        return table

    def _count_labelled(self, table: pa.Table) -> int:
        """Count the rows that have a label."""
        if self._labels == "au":
            labels = table["au"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
            return int((labels >= 0).any(axis=1).sum())
        return int((table["expression"].to_numpy() >= 0).sum()) if self._labels else 0

    def _flush(self) -> None:
        """Write the pending tracks as one row group."""
        if not self._pending.pieces:
            return
        path = self._spool / self._shard_name
        if self._parquet is None:
            names = [name for name in self._schema.names if name != "jpeg"]
            self._sink = pa.OSFile(str(path), "wb")
            self._parquet = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="none",  # JPEGs do not shrink, and everything else is small beside them
                use_dictionary=["identity", "video"],
                write_statistics=names,  # the smallest and largest JPEG would be stored a second time
                write_page_checksum=True,
            )
        row = 0
        for piece in self._pending.pieces:
            self._add_runs(piece, row=row)
            self._labelled_of_shard += self._count_labelled(piece.table)
            row += piece.table.num_rows
        # In one piece: the bytes must not depend on the pieces in which the rows were read.
        table = pa.concat_tables([piece.table for piece in self._pending.pieces]).combine_chunks()
        assert self._sink is not None
        start = self._sink.tell()
        self._parquet.write_table(table, row_group_size=row)
        with path.open("rb") as file:
            file.seek(start)
            self._sink.write(build_frame_table(file.read(), table["jpeg"].to_pylist()))
        self._groups_of_shard += 1
        self._pending = _RowGroupBuffer()
        if path.stat().st_size >= self._shard_bytes:
            self._finish_shard()

    @property
    def _shard_name(self) -> str:
        return self._name_shard(len(self._shards))

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
        assert self._sink is not None
        self._parquet.close()
        self._sink.close()
        path = self._spool / self._shard_name
        metadata = pq.read_metadata(path)
        with pa.memory_map(str(path)) as file:
            groups = tuple(
                _describe_row_group(file, metadata.row_group(number)) for number in range(metadata.num_row_groups)
            )
        shard = Shard(
            file=path.name,
            bytes=path.stat().st_size,
            rows=metadata.num_rows,
            row_groups=groups,
            labelled_frames=self._labelled_of_shard,
            origin=self._origin,
        )
        self._folder.put(path.name, source=path)
        path.unlink()
        self._shards.append(shard)
        self._parquet, self._sink, self._groups_of_shard, self._labelled_of_shard = None, None, 0, 0


class ShardWriter:
    """Writes one data set into an empty folder at any URL; a context manager that discards everything on an error.

    The manifest is written last.
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
        if self._folder.find_about(MANIFEST):
            raise DataError(
                f"{url} already holds a data set, and data sets never change; give the new one another folder"
            )
        self._folder.create()
        self._description: dict[str, Any] = {"name": name, "au": tuple(au), "image_size": image_size, "fps": fps}
        self._description |= {"recipe": dict(recipe), "expressions": tuple(expressions), "margin": margin}
        self._fps, self._every = fps, every
        spool_parent = str(self._folder.path) if self._folder.is_local else None
        self._spool = tempfile.TemporaryDirectory(prefix=".spool-", dir=spool_parent)
        self._tracks = TrackWriter(
            self._folder,
            spool=Path(self._spool.name),
            name_shard=name_shard,
            au=au,
            expressions=expressions,
            row_group_mb=row_group_mb,
            shard_mb=shard_mb,
        )

    def add_track(self, rows: pa.Table, *, fps: float | None = None, every: int | None = None) -> None:
        """Add a track as `TrackWriter.add_track`; `fps` and `every` where they differ from those of the data set."""
        self._tracks.add_track(
            rows, fps=self._fps if fps is None else fps, every=self._every if every is None else every
        )

    def close(self) -> Manifest:
        """Write the pending rows, then the index, then the manifest. Raises DataError if nothing was added."""
        try:
            return finish_dataset(self._folder, [self._tracks.finish()], every=self._every, **self._description)
        finally:
            self._spool.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if Path(self._spool.name).exists():
                self.close()
            return
        self._tracks.discard()
        self._spool.cleanup()


def name_shard(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.parquet"


def finish_dataset(folder: Folder, parts: Iterable[WrittenTracks], *, every: int = 1, **description: Any) -> Manifest:
    """Write the index of a data set whose shards are in place, and then its manifest.

    `parts` are in sorted order; `every` is that of most tracks; `description` has the fields of the manifest that do not follow from them. Raises DataError
    if there are none, they do not fit together, or the folder cannot be written.
    """
    shards: list[Shard] = []
    tables, columns = [], None
    for part in parts:
        if not part.shards:
            continue
        columns = columns or part.columns
        if not part.columns.equals(columns):
            raise DataError(
                f"{folder.url}: {part.shards[0].file} has other columns ({', '.join(part.columns.names)}) than "
                f"{shards[0].file} ({', '.join(columns.names)})"
            )
        position = part.index.column_names.index("shard")
        numbers = pc.add(part.index["shard"], pa.scalar(len(shards), pa.int32()))
        tables.append(part.index.set_column(position, INDEX_SCHEMA.field("shard"), numbers))
        shards += part.shards
    if columns is None:
        raise DataError(f"{folder.url}: not one face track was added, so there is no data set to write")
    index = pa.concat_tables(tables).combine_chunks()
    counts = _count_index(index, url=folder.url)
    counts["labelled_frames"] = sum(shard.labelled_frames or 0 for shard in shards)
    if counts["frames"] > counts["tracks"] and pc.max(index["frames"]).as_py() == 1:
        log.warning("%s: no two frames are %d apart, so every run is one frame", folder.url, every)
    with tempfile.TemporaryDirectory(prefix="facscale-") as spool:
        file, text = Path(spool) / Path(INDEX).name, Path(spool) / Path(MANIFEST).name
        pq.write_table(index, file, compression="zstd")
        manifest = Manifest(
            **description,
            counts=counts,
            shards=tuple(shards),
            fingerprint=compute_fingerprint(name=description["name"], schema=columns, shards=shards),
            index_checksum=compute_checksum(file.read_bytes()),
        )
        text.write_text(manifest.to_json(), encoding="utf-8")
        for name, source in ((INDEX, file), (MANIFEST, text)):
            folder.put(name, source=source)
    return manifest


def _count_index(index: pa.Table, *, url: str) -> dict[str, int]:
    """Count the identities, videos, tracks and frames of an index. Raises DataError if its tracks are not sorted."""
    keys = [index[name].combine_chunks() for name in ("identity", "video", "track")]
    before, after = ([key.slice(start, len(key) - 1) for key in keys] for start in (0, 1))
    changed, is_sorted = np.zeros(len(index) - 1, bool), np.ones(len(index) - 1, bool)
    counts = {}
    for name, first, second in zip(("identities", "videos", "tracks"), before, after, strict=True):
        is_sorted &= changed | pc.less_equal(first, second).to_numpy(zero_copy_only=False)
        changed |= pc.not_equal(first, second).to_numpy(zero_copy_only=False)
        counts[name] = 1 + int(changed.sum())
    if not is_sorted.all():
        raise DataError(f"{url}: the shards do not follow each other in the order of (identity, video, track)")
    return {**counts, "frames": pc.sum(index["frames"]).as_py()}


def _describe_row_group(file: pa.MemoryMappedFile, group: pq.RowGroupMetaData) -> RowGroup:
    starts, ends = [], []
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        starts.append(start)
        ends.append(start + column.total_compressed_size)
    offset, length = min(starts), max(ends) - min(starts)
    frame_table = file.read_at(FRAME_ENTRY_BYTES * group.num_rows, offset + length)
    return RowGroup(
        offset=offset,
        length=length,
        rows=group.num_rows,
        checksum=compute_checksum(file.read_at(length, offset)),
        frame_table=compute_checksum(frame_table),
    )
