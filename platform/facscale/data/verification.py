"""Checks all stored bytes of a data set against its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from facscale.data.errors import CorruptError, DataError, StoreError
from facscale.data.manifest import INDEX, MANIFEST
from facscale.data.shards import Dataset

READERS = 8  # row groups that are in memory at once


@dataclass(frozen=True)
class StoredFault:
    """A file of a data set that is not what was written. `row_group`: the damaged one; None: the whole file."""

    file: str
    row_group: int | None
    reason: str
    frames: int  # that are lost with it

    def __str__(self) -> str:
        part = "" if self.row_group is None else f", row group {self.row_group}"
        lost = f" ({self.frames:,} frames)" if self.frames else ""
        return f"{self.file}{part}: {self.reason}{lost}"


def verify_dataset(dataset: Dataset, *, advance: Callable[[], None] = lambda: None) -> list[StoredFault]:
    """Read every byte of a data set and return what is damaged, in stored order; `advance` is called after each shard.

    Checked are the size of each shard, the checksum of each row group, that it decodes, its frame table, and the index. Raises StoreError
    when the store does not answer: then nothing is known of the data.
    """
    faults = list(_check_index(dataset))
    with ThreadPoolExecutor(READERS) as pool:
        for number in range(len(dataset.manifest.shards)):
            faults += _check_shard(dataset, number, pool=pool)
            advance()
    return faults


def _check_index(dataset: Dataset) -> Iterator[StoredFault]:
    try:
        runs = dataset.runs
    except StoreError:
        raise
    except DataError as error:
        yield StoredFault(INDEX, None, _shorten(error, dataset), 0)
        return
    frames, stored = dataset.manifest.counts["frames"], sum(shard.rows for shard in dataset.manifest.shards)
    if frames != stored:
        yield StoredFault(MANIFEST, None, f"it counts {frames:,} frames, its shards {stored:,}", 0)
    if int(runs.frames.sum()) != stored:
        yield StoredFault(INDEX, None, f"it lists {int(runs.frames.sum()):,} frames of {stored:,}", 0)


def _check_shard(dataset: Dataset, number: int, *, pool: ThreadPoolExecutor) -> Iterator[StoredFault]:
    shard = dataset.manifest.shards[number]
    size = dataset.folder.measure(shard.file)
    if size is None:
        yield StoredFault(shard.file, None, "is missing", shard.rows)
        return
    if size != shard.bytes:  # without its footer, which is at the end, nothing of a shard can be decoded
        state = "is truncated" if size < shard.bytes else "has grown"
        yield StoredFault(shard.file, None, f"{state}: {size:,} bytes instead of {shard.bytes:,}", shard.rows)
        return
    try:
        dataset.check_footer(number)
    except CorruptError as error:
        yield StoredFault(shard.file, None, _shorten(error, dataset), shard.rows)
        return

    def check_row_group(row_group: int) -> StoredFault | None:
        try:
            dataset.read(shard=number, row_group=row_group)
            if shard.row_groups[row_group].frame_table:
                dataset.fetch_frame_table(shard=number, row_group=row_group)
        except CorruptError as error:
            return StoredFault(shard.file, row_group, _shorten(error, dataset), shard.row_groups[row_group].rows)
        return None

    yield from filter(None, pool.map(check_row_group, range(len(shard.row_groups))))


def _shorten(error: Exception, dataset: Dataset) -> str:
    """Take the URL out of an error's text: the command names it once."""
    return str(error).replace(f"{dataset.url}/", "")
