"""One row group in memory, the reader that fetches it, and the log of what could not be read."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from facscale.data.cache import Cache, CacheEntry
from facscale.data.errors import CorruptError, DataError
from facscale.data.frame_table import FrameTable
from facscale.data.group_bytes import FrameViews, GroupBytes, Traffic
from facscale.data.labels import reindex_labels
from facscale.data.shards import Dataset

log = logging.getLogger(__name__)

PER_AU = ("au", "intensity")  # columns with one value for each AU of the data set
DATA_SET = "data_set"  # a column that is not stored: the number of the data set
SPARSE = 0.5  # below this share of needed rows only these are read, and kept in memory
KEPT_TABLE_ROWS = 4_000_000  # of frame tables in memory, 64 MB


@dataclass(frozen=True)
class RowGroupKey:
    """A row group: the number of the data set, of the shard in it, and of the row group in the shard."""

    dataset: int
    shard: int
    row_group: int


@dataclass(frozen=True)
class ReadFailure:
    """A stored frame, or with `row` None a row group, that could not be read."""

    url: str
    shard: str
    row_group: int
    row: int | None
    reason: str

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row}"
        return f"{self.url}/{self.shard}, row group {self.row_group}{row}: {self.reason}"


class Rows:
    """Stored frames of one row group, by row number or by index into the rows that are kept in memory."""

    def __init__(
        self, jpegs: Sequence[memoryview], *, columns: Mapping[str, np.ndarray], kept: np.ndarray | None
    ) -> None:
        """`kept`: the row numbers that `jpegs` and `columns` hold, ascending; None: all of them."""
        self._jpegs, self._kept = jpegs, kept
        self.columns = columns

    def __len__(self) -> int:
        return len(self._jpegs)

    def locate(self, rows: np.ndarray) -> np.ndarray:
        """Return the indices of the given row numbers, same shape."""
        return rows if self._kept is None else np.searchsorted(self._kept, rows)

    def row_number(self, index: int) -> int:
        """Return the row number at `index`."""
        return index if self._kept is None else int(self._kept[index])

    def get_jpeg(self, index: int) -> memoryview:
        """Return the stored bytes of one frame, not copied; no bytes where they are damaged."""
        return self._jpegs[index]


def _view_jpegs(table: pa.Table) -> FrameViews:
    """Return views of the JPEGs of all rows; they keep the bytes in memory."""
    jpeg = table["jpeg"].combine_chunks()
    jpeg = jpeg.chunk(0) if isinstance(jpeg, pa.ChunkedArray) else jpeg
    data = memoryview(jpeg.buffers()[2] or b"").cast("B")
    width = np.int64 if pa.types.is_large_binary(jpeg.type) else np.int32
    offsets = np.frombuffer(jpeg.buffers()[1], dtype=width)[jpeg.offset : jpeg.offset + len(jpeg) + 1].tolist()
    return FrameViews(data, offsets[:-1], offsets[1:])


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Convert a column to [rows] or, of fixed-size lists, [rows, n]."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    is_list = pa.types.is_fixed_size_list(array.type)
    flat: np.ndarray = (array.flatten() if is_list else array).to_numpy(zero_copy_only=False)
    return flat.reshape(len(array), array.type.list_size) if is_list else flat


class RowGroupReader:
    """Reads rows of several data sets: local ones directly, remote ones through the cache.

    Where a row group has a frame table, few rows are read by themselves, and a damaged frame is a fault of its row alone,
    however it is read. Otherwise the whole row group is read, and lost where a byte of it is damaged.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        *,
        columns: Sequence[str],
        aus: Sequence[int],
        cache: Cache | None,
        pool: Executor | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        """`aus`: the AUs in whose order labels are delivered; `pool`: sends several requests of a row group at a time."""
        self._datasets = datasets
        self._columns, self._aus = tuple(dict.fromkeys(columns)), tuple(aus)
        self._stored = [name for name in self._columns if name != DATA_SET]
        self._cache, self._pool = cache, pool
        self._tables: OrderedDict[RowGroupKey, FrameTable] = OrderedDict()
        self._table_rows, self._lock = 0, threading.Lock()
        self.traffic = traffic or Traffic()
        self.stop = threading.Event()  # set: give up waiting for a store

    def read(self, key: RowGroupKey, *, needed: np.ndarray | None = None, is_kept: bool = True) -> Rows:
        """Read the rows `needed` (ascending; None: all) of a row group. Raises CorruptError, DataError.

        `is_kept`: store it in the cache, if it fits; else the cache is only read.
        """
        dataset = self._datasets[key.dataset]
        group = dataset.manifest.shards[key.shard].row_groups[key.row_group]
        is_sparse = needed is not None and len(needed) < SPARSE * group.rows
        if group.frame_table:
            size = group.length + group.table_bytes
            with self._open_entry(dataset, group.checksum, size, is_kept=is_kept) as entry:
                source = GroupBytes(
                    dataset,
                    shard=key.shard,
                    row_group=key.row_group,
                    entry=entry,
                    traffic=self.traffic,
                    pool=None if dataset.folder.is_local else self._pool,
                    stop=self.stop,
                )
                if not is_sparse:
                    source.load()
                try:
                    table = self._load_table(key, source)
                except CorruptError:
                    pass  # the row group itself may be intact
                else:
                    kept = needed if is_sparse else None
                    jpegs = source.read_frames(table, np.arange(group.rows) if kept is None else kept)
                    used = slice(None) if needed is None else needed
                    self.traffic.add(used_bytes=int(table.entries["bytes"][used].sum(dtype=np.int64)))
                    columns = source.read_columns(self._stored) if self._stored else None
                    return self._build_rows(key, jpegs, columns, kept=kept)
        return self._read_whole(key, needed=needed if is_sparse else None, is_kept=is_kept)

    def _read_whole(self, key: RowGroupKey, *, needed: np.ndarray | None, is_kept: bool) -> Rows:
        """Read a row group and verify it by its own checksum."""
        dataset = self._datasets[key.dataset]
        group = dataset.manifest.shards[key.shard].row_groups[key.row_group]
        place = {"shard": key.shard, "row_group": key.row_group}

        def fetch() -> bytes:
            data = dataset.fetch(**place, stop=self.stop)
            self.traffic.add(requests=1, read_bytes=len(data))
            return data

        has_cache = self._cache is not None and not dataset.folder.is_local and not group.frame_table
        data = self._cache.get(group.checksum, fetch, is_kept=is_kept) if self._cache and has_cache else fetch()
        table = dataset.decode(data, **place, columns=["jpeg", *self._stored], stop=self.stop)
        if needed is not None:
            table = table.take(pa.array(needed))
        jpegs = _view_jpegs(table)
        self.traffic.add(used_bytes=sum(map(len, jpegs)))
        return self._build_rows(key, jpegs, table, kept=needed, is_taken=True)

    def _build_rows(
        self,
        key: RowGroupKey,
        jpegs: Sequence[memoryview],
        table: pa.Table | None,
        *,
        kept: np.ndarray | None,
        is_taken: bool = False,
    ) -> Rows:
        """`table` has the rows `kept` if it `is_taken`, else all."""
        columns = {name: to_numpy(table[name]) for name in self._stored} if table is not None else {}
        if kept is not None and not is_taken:
            columns = {name: values[kept] for name, values in columns.items()}
        for name in PER_AU:
            if name in columns:
                given = self._datasets[key.dataset].manifest.au
                columns[name] = reindex_labels(columns[name], given=given, wanted=self._aus)
        if DATA_SET in self._columns:
            columns[DATA_SET] = np.full(len(jpegs), key.dataset, np.int64)
        return Rows(jpegs, columns=columns, kept=kept)

    def _open_entry(
        self, dataset: Dataset, name: str, size: int, *, is_kept: bool
    ) -> AbstractContextManager[CacheEntry | None]:
        if self._cache is None or dataset.folder.is_local:
            return nullcontext()
        return self._cache.open(name, size, is_kept=is_kept)

    def _load_table(self, key: RowGroupKey, source: GroupBytes) -> FrameTable:
        """Return the frame table of a row group; those used last stay in memory."""
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        table = source.read_frame_table()
        with self._lock:
            if key not in self._tables:
                self._tables[key] = table
                self._table_rows += len(table.entries)
            while self._table_rows > KEPT_TABLE_ROWS and len(self._tables) > 1:
                self._table_rows -= len(self._tables.popitem(last=False)[1].entries)
        return table


@dataclass
class ReadFailureLog:
    """The frames and row groups that were skipped, each once, and the bound on them. Safe for several threads."""

    total_frames: int
    max_share: float  # of the frames
    failures: list[ReadFailure] = field(default_factory=list)
    _frames: int = 0
    _seen: set[tuple[RowGroupKey, int | None]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {name: copy(value) for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.Lock()

    def add(self, datasets: Sequence[Dataset], key: RowGroupKey, *, row: int | None, reason: str) -> None:
        """Record a bad frame, or with `row=None` a bad row group. Raises DataError when there are too many."""
        dataset = datasets[key.dataset]
        shard = dataset.manifest.shards[key.shard]
        with self._lock:
            if (key, row) in self._seen:
                return
            self._seen.add((key, row))
            self._frames += 1 if row is not None else shard.row_groups[key.row_group].rows
            failure = ReadFailure(url=dataset.url, shard=shard.file, row_group=key.row_group, row=row, reason=reason)
            self.failures.append(failure)
            log.warning("skipped %s", failure)
            if self._frames > self.max_share * self.total_frames:
                raise DataError(
                    f"{dataset.url}: {self._frames} of {self.total_frames} frames cannot be read, more than data.max_bad "
                    f"({self.max_share:g}) allows; the last: {reason}. Make the data set again, or raise data.max_bad"
                )


def resolve_columns(
    datasets: Sequence[Dataset], names: Sequence[str], *, aus: int
) -> Mapping[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return (dtype, shape of one row) of each named column; labels have `aus` AUs.

    Raises DataError where a data set lacks a column, or the data sets store it differently.
    """
    columns: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    for dataset in datasets:
        schema = dataset.arrow_schema
        for name in names:
            if name == DATA_SET:
                columns[name] = (np.dtype(np.int64), ())
                continue
            if name not in schema.names:
                hint = "it has no labels" if name in PER_AU else f"it has {', '.join(schema.names)}"
                raise DataError(f"{dataset.url} has no column {name!r}: {hint}")
            kind = schema.field(name).type
            width = aus if name in PER_AU else getattr(kind, "list_size", 0)
            shape = (width,) if pa.types.is_fixed_size_list(kind) else ()
            try:
                dtype = np.dtype((kind.value_type if shape else kind).to_pandas_dtype())
            except NotImplementedError:
                dtype = np.dtype(object)
            if dtype.hasobject:
                raise DataError(f"{dataset.url}: the column {name!r} is {kind}; a view can deliver numbers only")
            if columns.setdefault(name, (dtype, shape)) != (dtype, shape):
                raise DataError(f"{dataset.url}: the column {name!r} is {kind}, unlike in {datasets[0].url}")
    return columns
