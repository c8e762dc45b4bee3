"""Data sets of face crops: immutable Parquet shards in a folder at any URL, laid out for reading by row group.

    shard-00000.parquet ...      one row per frame, sorted by (identity, video, track, frame)
    __facscale__/index.parquet   one row per run (an unbroken stretch of frames of one track inside one row group)
    __facscale__/manifest.json   written last: a folder without it is not a data set

Any Parquet reader can open the shards, and by the folder alone: it skips `__facscale__`, in which a pipeline puts its report
as well. Older data sets have those files beside the shards. The JPEG column is neither compressed again nor
dictionary-encoded, so a row group is little more than its JPEGs one after the other.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data.errors import CorruptError, DataError, DatasetNotFoundError
from facscale.data.manifest import INDEX, MANIFEST, Manifest, Runs, compute_checksum
from facscale.data.parquet_checks import check_columns, check_row_groups, check_table_size
from facscale.data.storage import Folder
from facscale.data.writer import BASE_SCHEMA, INDEX_SCHEMA, ShardWriter

__all__ = ["Dataset", "ShardWriter"]


class Dataset:
    """A data set for reading. Pickles as its URL and manifest. Safe for use by several threads."""

    def __init__(self, url: str) -> None:
        """Read the manifest. Raises DataError if it is missing, or the store does not answer or refuses access."""
        self.url = url.rstrip("/")
        self.folder = Folder(url)
        try:
            text = self.folder.read_about(MANIFEST)
        except FileNotFoundError:
            raise DatasetNotFoundError(
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
        """The index of all runs, read on first use. Raises DataError if it is missing or damaged."""
        table = self.read_index()
        try:
            runs = Runs.from_table(table)
            runs.check_bounds(self.manifest)
        except (pa.ArrowException, ValueError) as error:
            raise CorruptError(f"corrupt index {self.url}/{INDEX}: {error}") from None
        return runs

    def read_index(self) -> pa.Table:
        """Read the stored index: a row per run. Raises DataError if it is missing or damaged."""
        try:
            data = self.folder.read_about(INDEX)
        except FileNotFoundError:
            raise DataError(f"{self.url}/{INDEX} is missing; make the data set again") from None
        if compute_checksum(data) != self.manifest.index_checksum:
            raise CorruptError(f"corrupt index {self.url}/{INDEX}: its checksum differs from the manifest's")
        try:
            check_columns(pq.read_schema(io.BytesIO(data)), required=INDEX_SCHEMA)
            check_table_size(pq.read_metadata(io.BytesIO(data)), max_rows=self.manifest.counts["frames"])
            return pq.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptError(f"corrupt index {self.url}/{INDEX}: {error}") from None

    @property
    def arrow_schema(self) -> pa.Schema:
        """Names and types of the stored columns, from the footer of the first shard (read once)."""
        return self._load_footer(0).schema.to_arrow_schema()

    def read(self, *, shard: int, row_group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one row group. Raises CorruptError when its bytes differ from what was written, DataError if unreachable."""
        return self.decode(
            self.fetch(shard=shard, row_group=row_group), shard=shard, row_group=row_group, columns=columns
        )

    def fetch(self, *, shard: int, row_group: int, stop: threading.Event | None = None) -> bytes:
        """Read and verify the stored bytes of one row group; setting `stop` ends the wait for a store. Raises as `read`."""
        file = self.manifest.shards[shard].file
        group = self.manifest.shards[shard].row_groups[row_group]
        try:
            data = self.folder.read_range(file, offset=group.offset, length=group.length, stop=stop)
        except FileNotFoundError:
            raise CorruptError(f"missing shard {self.url}/{file}") from None
        if compute_checksum(data) != group.checksum:
            raise CorruptError(f"corrupt row group {row_group} of {self.url}/{file}: its checksum differs")
        return data

    def decode(
        self,
        data: bytes | memoryview,
        *,
        shard: int,
        row_group: int,
        columns: Sequence[str] | None = None,
        stop: threading.Event | None = None,
    ) -> pa.Table:
        """Decode the verified bytes of a row group to a table, each column in one chunk where it fits.

        A shard's footer is read on the first call; setting `stop` ends the wait for a store. Raises as `read`.
        """
        description = self.manifest.shards[shard]
        group, footer = description.row_groups[row_group], self._load_footer(shard, stop=stop)
        window = pa.PythonFile(_FileWindow(data, group.offset), mode="r")
        try:
            file = pq.ParquetFile(window, metadata=footer, pre_buffer=False)
            return file.read_row_group(row_group, columns=list(columns) if columns else None, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CorruptError(f"corrupt row group {row_group} of {self.url}/{description.file}: {error}") from None

    def check_footer(self, shard: int) -> None:
        """Read a shard's footer, unless it was read before. Raises as `read`."""
        self._load_footer(shard)

    def read_columns(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of all frames in stored order: for small ones (labels, identity). Raises DataError, CorruptError."""
        tables = []
        for shard in self.manifest.shards:
            try:
                with self.folder.open(shard.file) as file:
                    parquet = pq.ParquetFile(file, page_checksum_verification=True)
                    tables.append(parquet.read(columns=list(columns), use_threads=False))
            except FileNotFoundError:
                raise CorruptError(f"missing shard {self.url}/{shard.file}") from None
            except (pa.ArrowException, OSError) as error:
                raise CorruptError(f"corrupt shard {self.url}/{shard.file}: {error}") from None
        return pa.concat_tables(tables)

    def _load_footer(self, shard: int, *, stop: threading.Event | None = None) -> pq.FileMetaData:
        with self._lock:
            if shard in self._footers:
                return self._footers[shard]
        description = self.manifest.shards[shard]
        file, offset = description.file, description.footer_offset
        try:
            tail = self.folder.read_range(file, offset=offset, length=description.bytes - offset, stop=stop)
            footer = pq.read_metadata(pa.BufferReader(tail))
            check_columns(footer.schema.to_arrow_schema(), required=BASE_SCHEMA)
            check_row_groups(footer, shard=description)
        except FileNotFoundError:
            raise CorruptError(f"missing shard {self.url}/{file}") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptError(f"corrupt footer of {self.url}/{file}: {error}") from None
        with self._lock:
            return self._footers.setdefault(shard, footer)


class _FileWindow(io.RawIOBase):
    """A read-only file of which only the bytes `data` at `offset` can be read; they are served without a copy."""

    def __init__(self, data: bytes | memoryview, offset: int) -> None:
        super().__init__()
        self._data, self._offset, self._position = memoryview(data), offset, offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._offset + len(self._data)
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence]
        return self._position

    def read(self, size: int = -1) -> memoryview:
        start = self._position - self._offset
        if start < 0:
            raise OSError(
                f"byte {self._position} lies before the stretch from byte {self._offset} on that is in memory"
            )
        size = len(self._data) - start if size < 0 else min(size, len(self._data) - start)
        self._position += size
        return self._data[start : start + max(size, 0)]
