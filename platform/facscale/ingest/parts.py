"""Divides a data set into parts: consecutive items whose shards one worker writes.

The division depends on the items alone, not on workers or on which item was finished first. Where a part ends is decided by
the names near its end: an item that is added or changed moves the borders around it, and soon the next parts are the same
as before. A part is identified by a hash of all that its shards depend on, so that equal parts of another version of the
data set, or of a run that was interrupted, are not written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import xxhash

from facscale.data import DataError, Dataset
from facscale.ingest.work_store import ItemStatus

FORMAT = 1  # increase it when the same faces give other shards
SMALLEST = 0.5  # of a part that is not the last, as a share of the largest
MB = 1_000_000


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one row group of a data set."""

    shard: int
    row_group: int
    start: int
    count: int


@dataclass(frozen=True)
class PartItem:
    """An item with faces, and where they are stored: in the work store or, with `rows`, in another version of the data set."""

    key: str
    checksum: str
    face_bytes: int
    identity: str
    video: str
    part: str  # of the published split of expressions
    first_track: int  # number of its first track in the video
    fps: float
    step: int
    stills: bool
    au: tuple[int, ...]
    split: str = ""  # part of the published split of AUs
    rows: tuple[RowRange, ...] = ()


@dataclass(frozen=True)
class Part:
    """Consecutive items. `stem` begins the names of its shards; an item above the size of a shard `is_split` into several."""

    key: str
    stem: str
    items: tuple[PartItem, ...]
    is_split: bool = False

    def name_shard(self, number: int) -> str:
        """Return the file name of its n-th shard."""
        return f"{self.stem}-{number:03d}.parquet" if self.is_split else f"{self.stem}.parquet"

    def to_json(self) -> str:
        """Serialize the part, to send it to a worker."""
        items = [{**vars(item), "rows": [vars(rows) for rows in item.rows]} for item in self.items]
        return json.dumps({**vars(self), "items": items})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `to_json`."""
        values = json.loads(text)
        items = (
            PartItem(**{**item, "au": tuple(item["au"]), "rows": tuple(RowRange(**rows) for rows in item["rows"])})
            for item in values.pop("items")
        )
        return cls(**values, items=tuple(items))


def plan_parts(
    statuses: Sequence[ItemStatus],
    *,
    settings: Mapping[str, Any],
    shard_mb: float,
    rows: Mapping[str, tuple[RowRange, ...]] | None = None,
) -> list[Part]:
    """Divide the items with faces, which are in sorted order, into parts.

    `settings`: all else that the shards depend on. `rows`: by key of the item, where another version of the data set has it.
    """
    items = list(_number_tracks(statuses, rows or {}))
    limit = int(shard_mb * MB)
    parts: list[Part] = []
    for start, end in _divide(items, limit=limit):
        members = items[start:end]
        parts.append(
            Part(
                key=_compute_key(members, settings),
                stem=f"shard-{len(parts):05d}",
                items=tuple(members),
                is_split=members[0].face_bytes > limit,
            )
        )
    return parts


def rename_part(part: Part, taken: Collection[str]) -> Part:
    """Return a part whose shards do not have the names of others in `taken` (stems)."""
    return replace(part, stem=f"{part.stem}-{part.key[:8]}") if part.stem in taken else part


def locate_items(dataset: Dataset, statuses: Sequence[ItemStatus]) -> dict[str, tuple[RowRange, ...]]:
    """Return where a data set has the faces of each of its items (all of them, in sorted order), by their keys.

    Raises DataError if these are not its items.
    """
    manifest = dataset.manifest
    if sum(status.faces for status in statuses) != manifest.counts["frames"]:
        raise DataError(
            f"{dataset.url}: the table of its items is that of another data set, so it cannot be extended; choose another "
            "output"
        )
    groups = [
        (shard, group, rows.rows)
        for shard, description in enumerate(manifest.shards)
        for group, rows in enumerate(description.row_groups)
    ]
    ends = np.cumsum([count for _, _, count in groups])
    located = {}
    first = 0
    for status in statuses:
        last = first + status.faces
        ranges = []
        while first < last:
            number = int(np.searchsorted(ends, first, side="right"))
            shard, group, count = groups[number]
            start = first - (int(ends[number]) - count)
            taken = min(last - first, count - start)
            ranges.append(RowRange(shard, group, start, taken))
            first += taken
        located[status.key] = tuple(ranges)
    return located


def _number_tracks(statuses: Sequence[ItemStatus], rows: Mapping[str, tuple[RowRange, ...]]) -> Iterator[PartItem]:
    """Yield the items with faces; the tracks of a video are numbered through all of its items."""
    video, number = ("", ""), 0
    for status in statuses:
        if not status.faces:
            continue
        if status.sort_key[:2] != video:
            video, number = status.sort_key[:2], 0
        yield PartItem(
            key=status.key,
            checksum=status.checksum,
            face_bytes=status.face_bytes,
            identity=status.identity,
            video=status.video,
            part=status.part,
            first_track=number,
            fps=status.fps,
            step=status.step,
            stills=status.stills,
            au=status.au,
            split=status.split,
            rows=rows.get(status.key, ()),
        )
        number += 0 if status.stills else status.tracks


def _divide(items: Sequence[PartItem], *, limit: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each part: up to `limit` bytes, or one item that is larger.

    Of the borders at which a part would be neither too small nor too large, the one is taken whose next item has the
    smallest hash: it depends on that item alone, so the same border is found from another start.
    """
    start = 0
    while start < len(items):
        end, total, borders = start, 0, []
        while end < len(items) and (end == start or total + items[end].face_bytes <= limit):
            total += items[end].face_bytes
            end += 1
            if total >= SMALLEST * limit and end < len(items):
                borders.append(end)
        if end < len(items) and borders:
            end = min(borders, key=lambda border: _hash_name(items[border]))
        yield start, end
        start = end


def _hash_name(item: PartItem) -> int:
    return xxhash.xxh3_64_intdigest(f"{item.identity}\0{item.video}\0{item.part}".encode())


def _compute_key(items: Sequence[PartItem], settings: Mapping[str, Any]) -> str:
    contents = [
        [value for name, value in vars(item).items() if name not in ("key", "face_bytes", "rows")] for item in items
    ]
    text = json.dumps([FORMAT, settings, contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
