"""One row group in memory, the reader that fetches it, and the log of what could not be read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from facscale.data.cache import Cache
from facscale.data.errors import DataError
from facscale.data.labels import reindex_labels
from facscale.data.shards import Dataset

log = logging.getLogger(__name__)

PER_AU = ("au", "intensity")  # columns with one value for each AU of the data set
DATA_SET = "data_set"  # a column that is not stored: the number of the data set
SPARSE = 0.5  # below this share of needed rows only these are kept in memory


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

    def __init__(self, table: pa.Table, *, columns: Mapping[str, np.ndarray], kept: np.ndarray | None) -> None:
        """`kept`: the row numbers that `table` and `columns` hold, ascending; None: all of them."""
        jpeg = table["jpeg"].combine_chunks()
        jpeg = jpeg.chunk(0) if isinstance(jpeg, pa.ChunkedArray) else jpeg
        self._table = table  # owns the bytes
        self._bytes = memoryview(jpeg.buffers()[2] or b"").cast("B")
        width = np.int64 if pa.types.is_large_binary(jpeg.type) else np.int32
        offsets = np.frombuffer(jpeg.buffers()[1], dtype=width)[jpeg.offset : jpeg.offset + len(jpeg) + 1]
        self._offsets: list[int] = offsets.tolist()
        self._kept = kept
        self.columns = columns

    def locate(self, rows: np.ndarray) -> np.ndarray:
        """Return the indices of the given row numbers, same shape."""
        return rows if self._kept is None else np.searchsorted(self._kept, rows)

    def row_number(self, index: int) -> int:
        """Return the row number at `index`."""
        return index if self._kept is None else int(self._kept[index])

    def get_jpeg(self, index: int) -> memoryview:
        """Return the stored bytes of one frame, not copied."""
        return self._bytes[self._offsets[index] : self._offsets[index + 1]]


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Convert a column to [rows] or, of fixed-size lists, [rows, n]."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    is_list = pa.types.is_fixed_size_list(array.type)
    flat: np.ndarray = (array.flatten() if is_list else array).to_numpy(zero_copy_only=False)
    return flat.reshape(len(array), array.type.list_size) if is_list else flat


class RowGroupReader:
    """Fetches row groups of several data sets: local ones directly, remote ones through the cache."""

    def __init__(
        self, datasets: Sequence[Dataset], *, columns: Sequence[str], aus: Sequence[int], cache: Cache | None
    ) -> None:
        """`aus`: the AUs in whose order labels are delivered."""
        self._datasets = datasets
        self._columns, self._aus = tuple(dict.fromkeys(columns)), tuple(aus)
        self._cache = cache
        self.stop = threading.Event()  # set: give up waiting for a store

    def read(self, key: RowGroupKey, *, needed: np.ndarray | None = None) -> Rows:
        """Read the rows `needed` (ascending; None: all) of a row group. Raises CorruptError, DataError."""
        dataset = self._datasets[key.dataset]
        where = {"shard": key.shard, "row_group": key.row_group}
        if self._cache is None or dataset.folder.is_local:
            data = dataset.fetch(**where, stop=self.stop)
        else:
            group = dataset.manifest.shards[key.shard].row_groups[key.row_group]
            data = self._cache.get(group.checksum, lambda: dataset.fetch(**where, stop=self.stop))
        stored = [name for name in self._columns if name != DATA_SET]
        table = dataset.decode(data, **where, columns=["jpeg", *stored], stop=self.stop)
        kept = needed if needed is not None and len(needed) < SPARSE * len(table) else None
        if kept is not None:
            table = table.take(pa.array(kept))
        columns = {name: to_numpy(table[name]) for name in stored}
        for name in PER_AU:
            if name in columns:
                columns[name] = reindex_labels(columns[name], given=dataset.manifest.au, wanted=self._aus)
        if DATA_SET in self._columns:
            columns[DATA_SET] = np.full(len(table), key.dataset, np.int64)
        return Rows(table, columns=columns, kept=kept)


@dataclass
class ReadFailureLog:
    """The frames and row groups that were skipped, each once, and the bound on them. Safe for several threads."""

    total_frames: int
    max_share: float  # of the frames
    failures: list[ReadFailure] = field(default_factory=list)
    _frames: int = 0
    _seen: set[tuple[RowGroupKey, int | None]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

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
