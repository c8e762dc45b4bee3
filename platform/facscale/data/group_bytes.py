"""The bytes of one row group, stretch by stretch: from memory, the cache or the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import pyarrow as pa
import xxhash

from facscale.data.cache import CacheEntry
from facscale.data.errors import CorruptError
from facscale.data.frame_table import KEPT_OVERREAD, OVERREAD, FrameTable, plan_ranges
from facscale.data.manifest import compute_checksum
from facscale.data.shards import Dataset

DAMAGED = memoryview(b"")  # in place of a JPEG whose checksum differs


@dataclass
class Traffic:
    """How much a stream has read and used. Safe for several threads."""

    requests: int = 0  # to the store, or to files on a local disk
    read_bytes: int = 0  # by these requests
    cached_bytes: int = 0  # read from the cache instead, and intact
    used_bytes: int = 0  # JPEGs of the frames that were needed
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def counts(self) -> dict[str, int]:
        """The counters by name."""
        with self._lock:
            return {name: value for name, value in vars(self).items() if name != "_lock"}

    def add(self, *, requests: int = 0, read_bytes: int = 0, cached_bytes: int = 0, used_bytes: int = 0) -> None:
        """Add to the counters."""
        with self._lock:
            self.requests += requests
            self.read_bytes += read_bytes
            self.cached_bytes += cached_bytes
            self.used_bytes += used_bytes


class FrameViews(Sequence[memoryview]):
    """JPEGs inside of a stretch of memory; each is a view that is made when it is asked for."""

    def __init__(self, data: memoryview, starts: list[int], ends: list[int]) -> None:
        self._data, self._starts, self._ends = data, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> FrameViews: ...
    def __getitem__(self, index: int | slice) -> memoryview | FrameViews:
        if isinstance(index, slice):
            return FrameViews(self._data, self._starts[index], self._ends[index])
        return self._data[self._starts[index] : self._ends[index]]


class GroupBytes:
    """One row group that has a frame table. Positions count from its start; the table lies behind its last byte."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        shard: int,
        row_group: int,
        entry: CacheEntry | None,
        traffic: Traffic,
        pool: Executor | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`entry`: its file in the cache; `pool`: sends several requests at a time; `stop`: ends the wait for a store."""
        self._dataset, self._shard, self._row_group = dataset, shard, row_group
        self._entry, self._traffic, self._pool, self._stop = entry, traffic, pool, stop
        self._group = dataset.manifest.shards[shard].row_groups[row_group]
        self._data: bytes | None = None  # all of it, table included
        self._is_verified = False

    def load(self) -> None:
        """Read everything into memory, by one request at most. Raises CorruptError if the shard is missing, DataError."""
        length, total = self._group.length, self._group.length + self._group.table_bytes
        if self._entry is not None and compute_checksum(data := self._entry.read(0, total)[:length]) == (
            self._group.checksum
        ):
            self._data, self._is_verified = data, True
            self._traffic.add(cached_bytes=length)
            return
        data = self._fetch(0, total)
        self._is_verified = compute_checksum(memoryview(data)[:length]) == self._group.checksum
        if self._entry is not None and self._is_verified:
            self._entry.write(0, data)
        self._data = data

    @property
    def where(self) -> str:
        """How errors call it."""
        return self._dataset.describe(shard=self._shard, row_group=self._row_group)

    def read_frame_table(self) -> FrameTable:
        """Read and verify the frame table. Raises CorruptError, DataError."""
        offset, length = self._group.length, self._group.table_bytes
        if self._data is not None and len(self._data) >= offset + length:
            return FrameTable.parse(self._data[offset : offset + length], group=self._group, where=self.where)
        if self._entry is not None:
            data = self._entry.read(offset, length)
            if compute_checksum(data) == self._group.frame_table:
                self._traffic.add(cached_bytes=length)
                return FrameTable.parse(data, group=self._group, where=self.where)
        data = self._fetch(offset, length)
        table = FrameTable.parse(data, group=self._group, where=self.where)
        if self._entry is not None:
            self._entry.write(offset, data)
        return table

    def read_frames(self, table: FrameTable, rows: np.ndarray) -> Sequence[memoryview]:
        """Read the JPEGs of rows [n], ascending; DAMAGED for those whose checksum differs. Raises as `load`."""
        starts, ends = table.starts[rows], table.ends[rows]
        if self._data is not None:
            pieces = FrameViews(memoryview(self._data), starts.tolist(), ends.tolist())
            if self._is_verified:
                return pieces
            intact = map(table.is_intact, rows.tolist(), pieces)
            return [piece if is_intact else DAMAGED for piece, is_intact in zip(pieces, intact, strict=True)]
        frames = [DAMAGED] * len(rows)
        missing = np.arange(len(rows))
        if self._entry is not None:
            missing = np.array([n for n in range(len(rows)) if not self._read_cached(table, rows, n, into=frames)], int)
        overread = OVERREAD if self._entry is None else KEPT_OVERREAD
        ranges = [missing[part] for part in plan_ranges(starts[missing], ends[missing], overread=overread)]
        extents = [(int(starts[part[0]]), int(ends[part[-1]])) for part in ranges]
        for part, (first, _), data in zip(ranges, extents, self._fetch_all(extents), strict=True):
            pieces = FrameViews(memoryview(data), (starts[part] - first).tolist(), (ends[part] - first).tolist())
            checksums = table.entries["checksum"][rows[part]].tolist()
            for number, piece, checksum in zip(part.tolist(), pieces, checksums, strict=True):
                if xxhash.xxh3_64_intdigest(piece) == checksum:
                    frames[number] = piece
            if self._entry is not None:
                self._entry.write(first, data)
        return frames

    def _read_cached(self, table: FrameTable, rows: np.ndarray, number: int, *, into: list[memoryview]) -> bool:
        assert self._entry is not None
        row = int(rows[number])
        data = self._entry.read(int(table.starts[row]), int(table.entries["bytes"][row]))
        if not table.is_intact(row, data):
            return False
        into[number] = memoryview(data)
        self._traffic.add(cached_bytes=len(data))
        return True

    def read_columns(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of all rows, verified by their pages' checksums. Raises CorruptError, DataError."""
        place: dict[str, Any] = {"shard": self._shard, "row_group": self._row_group, "stop": self._stop}
        if self._data is not None:
            data = memoryview(self._data)
            base = self._group.offset
            return self._dataset.decode_columns(
                columns, fetch=lambda offset, length: bytes(data[offset - base : offset - base + length]), **place
            )
        if self._entry is not None:
            try:
                return self._dataset.decode_columns(columns, fetch=self._read_cached_chunk, **place)
            except CorruptError:
                pass  # what the cache has is a hole
        return self._dataset.decode_columns(columns, fetch=self._fetch_chunk, **place)

    def _read_cached_chunk(self, offset: int, length: int) -> bytes:
        assert self._entry is not None
        data = self._entry.read(offset - self._group.offset, length)
        if not data.strip(b"\0"):
            raise CorruptError("a hole")
        return data

    def _fetch_chunk(self, offset: int, length: int) -> bytes:
        data = self._fetch(offset - self._group.offset, length)
        if self._entry is not None:
            self._entry.write(offset - self._group.offset, data)
        return data

    def _fetch_all(self, extents: Sequence[tuple[int, int]]) -> Iterable[bytes]:
        """Read stretches (first byte, byte after the last), several at a time where there is a pool."""

        def fetch(extent: tuple[int, int]) -> bytes:
            return self._fetch(extent[0], extent[1] - extent[0])

        apply: Callable[..., Iterable[bytes]] = map if self._pool is None or len(extents) < 2 else self._pool.map
        return apply(fetch, extents)

    def _fetch(self, offset: int, length: int) -> bytes:
        data = self._dataset.read_bytes(
            shard=self._shard, offset=self._group.offset + offset, length=length, stop=self._stop
        )
        self._traffic.add(requests=1, read_bytes=len(data))
        return data
