"""Data sets of face crops: immutable Parquet shards in a folder at any URL, laid out for reading by row group.

    shard-00000.parquet ...      one row per frame, sorted by (identity, video, track, frame)
    __facscale__/index.parquet   one row per run (an unbroken stretch of frames of one track inside one row group)
    __facscale__/manifest.json   written last: a folder without it is not a data set

Any Parquet reader can open the shards, and by the folder alone: it skips `__facscale__`, in which a pipeline puts its report
as well. Older data sets have those files beside the shards. The JPEG column is neither compressed again nor
dictionary-encoded, so a row group is little more than its JPEGs one after the other. Behind each row group its frame table
says where each JPEG lies, for readers that need few of them.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data.errors import CorruptError, DataError, DatasetNotFoundError
from facscale.data.frame_table import FrameTable
from facscale.data.manifest import INDEX, MANIFEST, Manifest, Runs, compute_checksum
from facscale.data.parquet import read_parquet
from facscale.data.parquet_checks import check_columns, check_row_groups, check_table_size
from facscale.data.storage import Folder
from facscale.data.writer import BASE_SCHEMA, INDEX_SCHEMA, ShardWriter

__all__ = ["Dataset", "ShardWriter"]

KEPT_FOOTERS = 64  # in memory, parsed: about half a megabyte each


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
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._schema: pa.Schema | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.Lock()
        self._footers = OrderedDict()
        self._schema = None

    @cached_property
    def runs(self) -> Runs:
        """The index of all runs, read on first use. Raises DataError if it is missing or damaged."""
        table = self.read_index()
        try:
            runs = Runs.from_table(table)
            runs.check_bounds(self.manifest)
        except (pa.ArrowException, ValueError) as error:
            raise CorruptError(f"corrupt index {self.url}/{INDEX}: {error}") from None
        del table
        pa.default_memory_pool().release_unused()  # a hundred megabytes, of a million runs
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
            return read_parquet(data)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptError(f"corrupt index {self.url}/{INDEX}: {error}") from None

    @property
    def arrow_schema(self) -> pa.Schema:
        """Names and types of the stored columns, from the footer of the first shard (read once)."""
        if self._schema is None:
            self._schema = self._load_footer(0).schema.to_arrow_schema()
        return self._schema

    def read(self, *, shard: int, row_group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one row group. Raises CorruptError when its bytes differ from what was written, DataError if unreachable."""
        return self.decode(
            self.fetch(shard=shard, row_group=row_group), shard=shard, row_group=row_group, columns=columns
        )

    def fetch(self, *, shard: int, row_group: int, stop: threading.Event | None = None) -> bytes:
        """Read and verify the stored bytes of one row group; setting `stop` ends the wait for a store. Raises as `read`."""
        group = self.manifest.shards[shard].row_groups[row_group]
        data = self.read_bytes(shard=shard, offset=group.offset, length=group.length, stop=stop)
        if compute_checksum(data) != group.checksum:
            raise CorruptError(f"corrupt {self.describe(shard=shard, row_group=row_group)}: its checksum differs")
        return data

    def fetch_frame_table(self, *, shard: int, row_group: int, stop: threading.Event | None = None) -> FrameTable:
        """Read and verify the frame table of one row group, which must have one. Raises as `read`."""
        group = self.manifest.shards[shard].row_groups[row_group]
        data = self.read_bytes(shard=shard, offset=group.offset + group.length, length=group.table_bytes, stop=stop)
        return FrameTable.parse(data, group=group, where=self.describe(shard=shard, row_group=row_group))

    def read_bytes(self, *, shard: int, offset: int, length: int, stop: threading.Event | None = None) -> bytes:
        """Read a stretch of a shard by one request, not verified; fewer bytes at the file's end. Raises as `read`."""
        file = self.manifest.shards[shard].file
        try:
            return self.folder.read_range(file, offset=offset, length=length, stop=stop)
        except FileNotFoundError:
            raise CorruptError(f"missing shard {self.url}/{file}") from None

    def describe(self, *, shard: int, row_group: int) -> str:
        """Name a row group in an error."""
        return f"row group {row_group} of {self.url}/{self.manifest.shards[shard].file}"

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
        group, footer = self.manifest.shards[shard].row_groups[row_group], self._load_footer(shard, stop=stop)
        window = _FileWindow({group.offset: data})
        return self._decode(window, footer, shard=shard, row_group=row_group, columns=columns)

    def decode_columns(
        self,
        columns: Sequence[str],
        *,
        shard: int,
        row_group: int,
        fetch: Callable[[int, int], bytes],
        stop: threading.Event | None = None,
    ) -> pa.Table:
        """Decode some columns of a row group, of which `fetch(offset in the file, length)` returns the bytes.

        They are verified by the checksums of their pages. Raises as `read`.
        """
        footer = self._load_footer(shard, stop=stop)
        pieces, stored = dict[int, bytes](), footer.row_group(row_group)
        group = self.manifest.shards[shard].row_groups[row_group]
        for number in range(stored.num_columns):
            column = stored.column(number)
            if column.path_in_schema.split(".")[0] in columns:
                offset = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
                size = column.total_compressed_size
                if offset < group.offset or size <= 0 or offset + size > group.offset + group.length:
                    where = self.describe(shard=shard, row_group=row_group)
                    raise CorruptError(f"corrupt {where}: {column.path_in_schema} lies outside of it")
                pieces[offset] = fetch(offset, size)
        return self._decode(
            _FileWindow(pieces), footer, shard=shard, row_group=row_group, columns=columns, is_verified=False
        )

    def _decode(
        self,
        window: _FileWindow,
        footer: pq.FileMetaData,
        *,
        shard: int,
        row_group: int,
        columns: Sequence[str] | None,
        is_verified: bool = True,
    ) -> pa.Table:
        try:
            file = pq.ParquetFile(
                pa.PythonFile(window, mode="r"),
                metadata=footer,
                pre_buffer=False,
                page_checksum_verification=not is_verified,
            )
            return file.read_row_group(row_group, columns=list(columns) if columns else None, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            where = self.describe(shard=shard, row_group=row_group)
            raise CorruptError(f"corrupt {where}: {error}") from None

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
                self._footers.move_to_end(shard)
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
            self._footers[shard] = footer
            while len(self._footers) > KEPT_FOOTERS:
                self._footers.popitem(last=False)
        return footer


class _FileWindow(io.RawIOBase):
    """A read-only file of which only some pieces can be read: offset -> bytes. They are served without a copy."""

    def __init__(self, pieces: Mapping[int, bytes | memoryview]) -> None:
        super().__init__()
        self._pieces = {offset: memoryview(pieces[offset]) for offset in sorted(pieces)}
        self._position = min(self._pieces)
        self._end = max(offset + len(data) for offset, data in self._pieces.items())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        return self._position

    def read(self, size: int = -1) -> memoryview:
        for offset, data in self._pieces.items():
            start = self._position - offset
            if 0 <= start < len(data):
                stop = len(data) if size < 0 else min(start + size, len(data))
                self._position = offset + stop
                return data[start:stop]
        if self._position < self._end:
            raise OSError(f"byte {self._position} lies outside the {len(self._pieces)} pieces that are in memory")
        return memoryview(b"")
