"""Writes a data set, track by track; what the files look like stands in `shards.py`."""

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
from facscale.data.manifest import INDEX, MANIFEST, Manifest, RowGroup, Shard, checksum, fingerprint
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


COLUMNS = pa.schema(
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


def columns(au: Sequence[int], *, expressions: Sequence[str] = ()) -> pa.Schema:
    """The columns that every data set has; labels only with AUs, or with classes of expressions."""
    labels = [(name, pa.list_(pa.int8(), len(au))) for name in ("au", "intensity")] if au else []
    labels += [("expression", pa.int8()), ("part", pa.string())] if expressions else []
    return pa.schema([*COLUMNS, *labels])


@dataclass
class _Pending:
    """Tracks (or parts of long ones) that will make the next row group."""

    tables: list[pa.Table] = field(default_factory=list)
    bytes: int = 0


class ShardWriter:
    """Writes one data set into an empty folder at any URL; a context manager that drops everything on an error.

    Shards are spooled on local disk and put in place whole; the manifest comes last.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        au: Sequence[int] = (),
        expressions: Sequence[str] = (),
        image_size: int,
        fps: float,
        recipe: Mapping[str, Any],
        every: int = 1,
        row_group_mb: float = 8.0,
        shard_mb: float = 256.0,
    ) -> None:
        """`every`: the stored frames are each n-th of the source, so frames n apart are neighbours.

        `expressions`: names of the classes 0, 1, ... of the column `expression` (-1: none); `part` then says to which
        part of the published split a frame belongs, "train" or "test".

        Raises DataError if the folder already holds a data set or cannot be written.
        """
        self._folder = Folder(url)
        if self._folder.exists(MANIFEST):
            raise DataError(
                f"{url} already holds a data set, and data sets never change; give the new one another folder"
            )
        self._folder.make()
        self._describe: dict[str, Any] = {"name": name, "au": tuple(au), "image_size": image_size, "fps": fps}
        self._describe |= {"recipe": dict(recipe), "expressions": tuple(expressions)}
        self._schema = columns(au, expressions=expressions)
        self._every, self._group_bytes, self._shard_bytes = every, int(row_group_mb * MB), int(shard_mb * MB)
        local = str(self._folder.path) if self._folder.local else None
        self._spool = tempfile.TemporaryDirectory(prefix=".spool-", dir=local)
        self._pending = _Pending()
        self._shards: list[Shard] = []
        self._index: list[dict[str, Any]] = []
        self._last: tuple[str, str, int] | None = None
        self._counts = {"identities": 0, "videos": 0, "tracks": 0, "frames": 0, "labelled_frames": 0}
        self._parquet: pq.ParquetWriter | None = None
        self._groups_of_shard = 0

    def add_track(self, rows: pa.Table) -> None:
        """All frames of ONE (identity, video, track), ascending by frame; tracks come sorted.

        Columns as `columns` says, further ones are kept (the same for every track). Raises DataError otherwise.
        """
        if not rows.num_rows:
            return
        table = self._checked(rows)
        size = table.nbytes
        parts = max(1, -(-size // self._group_bytes))
        if self._pending.bytes + size > self._group_bytes:
            self._flush()
        for part in range(parts):
            first, last = (table.num_rows * edge // parts for edge in (part, part + 1))
            if part:
                self._flush()
            self._pending.tables.append(table.slice(first, last - first))
            self._pending.bytes += size // parts

    def close(self) -> Manifest:
        """Write what is left, then the index, then the manifest. Raises DataError if nothing was added."""
        self._flush()
        self._finish_shard()
        if self._counts["frames"] > self._counts["tracks"] and all(run["frames"] == 1 for run in self._index):
            log.warning("%s: no two frames are %d apart, so every run is one frame", self._folder.url, self._every)
        if not self._shards:
            self._spool.cleanup()
            raise DataError(f"{self._folder.url}: not one face track was added, so there is no data set to write")
        index = Path(self._spool.name) / INDEX
        pq.write_table(pa.Table.from_pylist(self._index, schema=INDEX_SCHEMA), index, compression="zstd")
        manifest = Manifest(
            **self._describe,
            counts=self._counts,
            shards=tuple(self._shards),
            fingerprint=fingerprint(name=self._describe["name"], schema=self._schema, shards=self._shards),
            index_checksum=checksum(index.read_bytes()),
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

    def _checked(self, rows: pa.Table) -> pa.Table:
        """`rows` with the data set's column order and types. Raises DataError for a broken promise."""
        if missing := [name for name in self._schema.names if name not in rows.column_names]:
            raise DataError(f"{self._folder.url}: a track without the column(s) {', '.join(missing)}")
        if self._last is None:  # further columns are fixed by the first track
            extra = [column for column in rows.schema if column.name not in self._schema.names]
            self._schema = pa.schema([*self._schema, *extra])
        try:
            table = rows.select(self._schema.names).cast(self._schema)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{self._folder.url}: a track's columns do not fit: {error}") from None
        first, last = (tuple(table[name][row].as_py() for name in ("identity", "video", "track")) for row in (0, -1))
        single = all(len(table[name].unique()) == 1 for name in ("identity", "video", "track"))
        if not single or (self._last is not None and first <= self._last):
            raise DataError(
                f"{self._folder.url}: the track {first} after {self._last}: tracks come one at a time, once, "
                "sorted by (identity, video, track)"
            )
        if np.any(np.diff(table["frame"].to_numpy()) <= 0):
            raise DataError(f"{self._folder.url}: the frames of track {first} are not ascending")
        self._count(table, previous=self._last, this=last)
        self._last = last
        return table

    def _count(self, table: pa.Table, *, previous: tuple[str, str, int] | None, this: tuple[str, str, int]) -> None:
        self._counts["identities"] += previous is None or previous[0] != this[0]
        self._counts["videos"] += previous is None or previous[:2] != this[:2]
        self._counts["tracks"] += 1
        self._counts["frames"] += table.num_rows
        if self._describe["au"]:
            labels = table["au"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
            self._counts["labelled_frames"] += int((labels >= 0).any(axis=1).sum())
        elif self._describe["expressions"]:
            self._counts["labelled_frames"] += int((table["expression"].to_numpy() >= 0).sum())

    def _flush(self) -> None:
        """Write the pending tracks as one row group."""
        if not self._pending.tables:
            return
        if self._parquet is None:
            names = [name for name in self._schema.names if name != "jpeg"]
            self._parquet = pq.ParquetWriter(
                Path(self._spool.name) / self._shard_name,
                self._schema,
                compression="none",  # JPEGs do not shrink, and all the rest is small beside them
                use_dictionary=["identity", "video"],
                write_statistics=names,  # the least and greatest JPEG would be stored a second time
                write_page_checksum=True,
            )
        row = 0
        for table in self._pending.tables:
            self._add_runs(table, row=row)
            row += table.num_rows
        self._parquet.write_table(pa.concat_tables(self._pending.tables), row_group_size=row)
        self._groups_of_shard += 1
        self._pending = _Pending()
        if (Path(self._spool.name) / self._shard_name).stat().st_size >= self._shard_bytes:
            self._finish_shard()

    @property
    def _shard_name(self) -> str:
        return f"shard-{len(self._shards):05d}.parquet"

    def _add_runs(self, table: pa.Table, *, row: int) -> None:
        frames = table["frame"].to_numpy()
        edges = np.flatnonzero(np.diff(frames) != self._every) + 1
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
                }
            )

    def _finish_shard(self) -> None:
        """Close the open shard, take its checksums, put it in place."""
        if self._parquet is None:
            return
        self._parquet.close()
        self._parquet, self._groups_of_shard = None, 0
        path = Path(self._spool.name) / self._shard_name
        metadata = pq.read_metadata(path)
        with pa.memory_map(str(path)) as file:
            groups = tuple(_measure(file, metadata.row_group(number)) for number in range(metadata.num_row_groups))
        shard = Shard(file=path.name, bytes=path.stat().st_size, rows=metadata.num_rows, row_groups=groups)
        self._folder.put(path.name, source=path)
        path.unlink()
        self._shards.append(shard)


def _measure(file: pa.MemoryMappedFile, group: pq.RowGroupMetaData) -> RowGroup:
    starts, ends = [], []
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        starts.append(start)
        ends.append(start + column.total_compressed_size)
    offset, length = min(starts), max(ends) - min(starts)
    return RowGroup(offset=offset, length=length, rows=group.num_rows, checksum=checksum(file.read_at(length, offset)))
