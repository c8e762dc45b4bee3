"""Data sets of face crops: immutable Parquet shards in a folder at any URL, made for reading by row group.

    manifest.json            written last: a folder without it is no data set
    index.parquet            one row a run (an unbroken stretch of frames of one track inside one row group)
    shard-00000.parquet ...  one row a frame, sorted by (identity, video, track, frame)

Any tool that reads Parquet can look inside. The JPEG column is neither compressed again nor dictionary-encoded, so a
row group is little more than its JPEGs one after the other.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data.errors import CorruptError, DataError
from facscale.data.manifest import INDEX, MANIFEST, Manifest, Runs, checksum
from facscale.data.storage import Folder
from facscale.data.trust import refuse_large_table, refuse_other_columns, refuse_other_groups
from facscale.data.writer import COLUMNS, INDEX_SCHEMA, ShardWriter

__all__ = ["Dataset", "ShardWriter"]


class Dataset:
    """The reading side of a data set. Pickles as its URL and manifest; every thread may read."""

    def __init__(self, url: str) -> None:
        """Reads the manifest. Raises DataError if there is none, or the store does not answer or refuses."""
        self.url = url.rstrip("/")
        self.folder = Folder(url)
        try:
            text = self.folder.read(MANIFEST)
        except FileNotFoundError:
            raise DataError(
                f"{self.url} is no data set: it has no {MANIFEST}; check the path, or run its pipeline (again)"
            ) from None
        self.manifest = Manifest.from_json(text, url=self.url)
        self._lock = threading.Lock()
        self._footers: dict[int, pq.FileMetaData] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.Lock()
        self._footers = {}

    @cached_property
    def runs(self) -> Runs:
        """The index. Raises DataError if it is damaged."""
        try:
            data = self.folder.read(INDEX)
        except FileNotFoundError:
            raise DataError(f"{self.url}/{INDEX} is missing; make the data set again") from None
        if checksum(data) != self.manifest.index_checksum:
            raise CorruptError(f"corrupt index {self.url}/{INDEX}: its checksum differs from the manifest's")
        try:
            refuse_other_columns(pq.read_schema(io.BytesIO(data)), INDEX_SCHEMA)
            refuse_large_table(pq.read_metadata(io.BytesIO(data)), rows=self.manifest.counts["frames"])
            runs = Runs.from_table(pq.read_table(io.BytesIO(data)))
            runs.refuse_others(self.manifest)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptError(f"corrupt index {self.url}/{INDEX}: {error}") from None
        return runs

    @property
    def arrow_schema(self) -> pa.Schema:
        """Names and types of the stored columns."""
        return self._footer(0).schema.to_arrow_schema()

    def read(self, *, shard: int, row_group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group. Raises CorruptError when its bytes are not those that were written, DataError if unreachable."""
        return self.decode(
            self.fetch(shard=shard, row_group=row_group), shard=shard, row_group=row_group, columns=columns
        )

    def fetch(self, *, shard: int, row_group: int, stop: threading.Event | None = None) -> bytes:
        """The stored bytes of one row group, verified; `stop` ends the wait for a store that is away. Raises as `read`."""
        part = self.manifest.shards[shard]
        place = part.row_groups[row_group]
        try:
            data = self.folder.read_range(part.file, offset=place.offset, length=place.length, stop=stop)
        except FileNotFoundError:
            raise CorruptError(f"missing shard {self.url}/{part.file}") from None
        if checksum(data) != place.checksum:
            raise CorruptError(f"corrupt row group {row_group} of {self.url}/{part.file}: its checksum differs")
        return data

    def decode(
        self, data: bytes | memoryview, *, shard: int, row_group: int, columns: Sequence[str] | None = None,
        stop: threading.Event | None = None,
    ) -> pa.Table:  # fmt: skip
        """The table in the verified bytes of a row group, each column in one chunk where it fits.

        A shard's footer is read on the first call; `stop` ends the wait for a store that is away. Raises as `read`.
        """
        part = self.manifest.shards[shard]
        place, footer = part.row_groups[row_group], self._footer(shard, stop=stop)
        window = pa.PythonFile(_Window(data, place.offset), mode="r")
        try:
            file = pq.ParquetFile(window, metadata=footer, pre_buffer=False)
            return file.read_row_group(row_group, columns=list(columns) if columns else None, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CorruptError(f"corrupt row group {row_group} of {self.url}/{part.file}: {error}") from None

    def table(self, columns: Sequence[str]) -> pa.Table:
        """The whole data set, in stored order: for small columns (labels, identity). Raises DataError, CorruptError."""
        parts = []
        for shard in self.manifest.shards:
            try:
                with self.folder.open(shard.file) as file:
                    parquet = pq.ParquetFile(file, page_checksum_verification=True)
                    parts.append(parquet.read(columns=list(columns), use_threads=False))
            except FileNotFoundError:
                raise CorruptError(f"missing shard {self.url}/{shard.file}") from None
            except (pa.ArrowException, OSError) as error:
                raise CorruptError(f"corrupt shard {self.url}/{shard.file}: {error}") from None
        return pa.concat_tables(parts)

    def _footer(self, shard: int, *, stop: threading.Event | None = None) -> pq.FileMetaData:
        with self._lock:
            if shard in self._footers:
                return self._footers[shard]
        part = self.manifest.shards[shard]
        try:
            tail = self.folder.read_range(part.file, offset=part.end, length=part.bytes - part.end, stop=stop)
            footer = pq.read_metadata(pa.BufferReader(tail))
            refuse_other_columns(footer.schema.to_arrow_schema(), COLUMNS)
            refuse_other_groups(footer, part)
        except FileNotFoundError:
            raise CorruptError(f"missing shard {self.url}/{part.file}") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptError(f"corrupt footer of {self.url}/{part.file}: {error}") from None
        with self._lock:
            return self._footers.setdefault(shard, footer)


class _Window(io.RawIOBase):
    """A read-only file of which only one stretch is there: the bytes `data` at `offset`, served without a copy."""

    def __init__(self, data: bytes | memoryview, offset: int) -> None:
        super().__init__()
        self._data, self._offset, self._at = memoryview(data), offset, offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._offset + len(self._data)}[whence]
        return self._at

    def read(self, size: int = -1) -> memoryview:
        start = self._at - self._offset
        if start < 0:
            raise OSError(f"byte {self._at} lies outside the stretch from {self._offset}")
        size = len(self._data) - start if size < 0 else min(size, len(self._data) - start)
        self._at += size
        return self._data[start : start + max(size, 0)]
