"""The frame table of a row group: where each JPEG lies in it, and the checksum of each.

The writer puts the table into the shard, right behind its row group, where Parquet readers never look: they follow the
offsets in the footer. With it a reader fetches single frames and verifies them one by one. The manifest has the table's own
checksum. Data sets of earlier releases have no tables; their row groups are read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import xxhash

from facscale.data.errors import CorruptError
from facscale.data.manifest import FRAME_ENTRY_BYTES, RowGroup, compute_checksum

ENTRY = np.dtype([("offset", "<u4"), ("bytes", "<u4"), ("checksum", "<u8")])  # offset: from the start of the row group
assert ENTRY.itemsize == FRAME_ENTRY_BYTES
# How many bytes may be read in addition, for each needed byte, where that joins ranges: a request costs about as much processor
# time as decoding a frame, see docs/how-to/stream_speed.md. What the cache keeps is read in vain only once.
OVERREAD, KEPT_OVERREAD = 0.4, 1.0
FAR_OVERREAD = 0.8  # from a store where a request takes longer than the bytes of a whole row group


def build_frame_table(data: bytes, jpegs: Iterable[bytes | None]) -> bytes:
    """Find the JPEGs [rows] in the bytes of their row group as it was written, and return the table of them.

    Raises ValueError where one does not follow the others: the column would be compressed or dictionary-encoded.
    """
    entries, position = [], 0
    for row, jpeg in enumerate(jpegs):
        if jpeg is None:
            entries.append((0, 0, xxhash.xxh3_64_intdigest(b"")))
            continue
        needle = len(jpeg).to_bytes(4, "little") + jpeg  # how Parquet stores a binary value
        if data[position : position + len(needle)] != needle:  # a new page begins
            position = data.find(needle, position)
        if position < 0:
            raise ValueError(f"the JPEG of row {row} is not stored as it is")
        entries.append((position + 4, len(jpeg), xxhash.xxh3_64_intdigest(jpeg)))
        position += len(needle)
    return np.array(entries, ENTRY).tobytes()


@dataclass(frozen=True)
class FrameTable:
    """The table of one row group, as arrays [rows]."""

    entries: np.ndarray  # of dtype ENTRY

    @classmethod
    def parse(cls, data: bytes, *, group: RowGroup, where: str) -> Self:
        """Parse and validate the stored bytes. Raises CorruptError, which calls the row group `where`."""
        if compute_checksum(data) != group.frame_table:
            raise CorruptError(f"corrupt frame table of {where}: its checksum differs")
        entries = np.frombuffer(data, ENTRY)
        ends = entries["offset"].astype(np.int64) + entries["bytes"]
        if len(entries) != group.rows or ends.max(initial=0) > group.length:
            raise CorruptError(f"corrupt frame table of {where}: frames lie outside the row group")
        return cls(entries)

    @property
    def starts(self) -> np.ndarray:
        """First byte of each JPEG, int64, counted from the start of the row group."""
        return self.entries["offset"].astype(np.int64)

    @property
    def ends(self) -> np.ndarray:
        """The byte after the last one of each JPEG, int64."""
        return self.starts + self.entries["bytes"]

    def is_intact(self, row: int, data: memoryview | bytes) -> bool:
        """Return whether `data` is the JPEG of a row."""
        return xxhash.xxh3_64_intdigest(data) == int(self.entries["checksum"][row])


def plan_ranges(starts: np.ndarray, ends: np.ndarray, *, overread: float) -> Iterator[slice]:
    """Join extents [n], ascending, to ranges that are read by one request each; yields slices of the extents.

    The smallest gaps are read over first, as long as all of them together have at most `overread` times the needed bytes.
    """
    gaps = np.maximum(starts[1:] - ends[:-1], 0)
    shortest = np.argsort(gaps, kind="stable")
    is_joined = np.zeros(len(gaps), bool)
    is_joined[shortest] = np.cumsum(gaps[shortest]) <= overread * (ends - starts).sum()
    edges = [0, *(np.flatnonzero(~is_joined) + 1).tolist(), len(starts)]
    for first, last in pairwise(edges):
        if first < last:
            yield slice(first, last)
