"""Copies data sets between stores, byte for byte; what is already there and intact is left as it is."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from facscale.data.errors import CorruptError, DataError, DatasetNotFoundError
from facscale.data.manifest import ABOUT, INDEX, MANIFEST, Shard, compute_checksum
from facscale.data.shards import Dataset
from facscale.data.storage import Folder

PART = 16 << 20  # bytes that are read at once
COPIERS = 4  # shards that are copied side by side, each spooled on local disk
BESIDE = tuple(f"{ABOUT}/{name}" for name in ("report.json", "report.txt", "items.parquet", "contact_sheet.png"))


def copy_dataset(source: Dataset, url: str, *, advance: Callable[[], None] = lambda: None) -> int:
    """Copy a data set to the folder at `url`; return how many shards were written, the others were there already.

    A copy that was interrupted continues. Every shard is read back from the target and compared with its checksums, and
    the manifest is written last. `advance` is called after each shard. Raises CorruptError if the
    source is damaged; DataError if the target holds another data set or does not keep what is written.
    """
    target = Folder(url)
    _check_target(source, url)
    target.create()
    stop = threading.Event()

    def copy(shard: Shard) -> bool:
        if stop.is_set():
            return False
        is_new = not _is_intact(target, shard)
        if is_new:
            _copy_shard(source, target, shard)
        return is_new

    written = 0
    with ThreadPoolExecutor(COPIERS) as pool:
        try:
            for is_new in pool.map(copy, source.manifest.shards):
                written += is_new
                advance()
        except BaseException:
            stop.set()  # the error is reported now, not after the remaining terabytes
            raise
    for name in (INDEX, *BESIDE, MANIFEST):
        _copy_small_file(source.folder, target, name)
    return written


def _check_target(source: Dataset, url: str) -> None:
    try:
        existing = Dataset(url)
    except DatasetNotFoundError:
        return
    if existing.manifest != source.manifest:
        raise DataError(f"{url} already holds another data set, {existing.manifest.name}; copy to another folder")


def _copy_shard(source: Dataset, target: Folder, shard: Shard) -> None:
    with tempfile.TemporaryDirectory(prefix="facscale-copy-") as spool:
        path = Path(spool) / shard.file
        try:
            with path.open("wb") as file:
                for offset in range(0, shard.bytes, PART):
                    length = min(PART, shard.bytes - offset)
                    file.write(source.folder.read_range(shard.file, offset=offset, length=length))
        except FileNotFoundError:
            raise CorruptError(f"missing shard {source.url}/{shard.file}") from None
        with path.open("rb") as spooled:

            def read(offset: int, length: int) -> bytes:
                spooled.seek(offset)
                return spooled.read(length)

            if path.stat().st_size != shard.bytes or not _has_checksums(read, shard):
                raise CorruptError(
                    f"corrupt shard {source.url}/{shard.file}: `facscale data verify {source.url}` lists all that is damaged"
                )
        target.put(shard.file, source=path)
    if not _is_intact(target, shard):
        raise DataError(f"{target.url}/{shard.file} is not what was written to it; check that store, then copy again")


def _is_intact(folder: Folder, shard: Shard) -> bool:
    """Return whether a folder has a shard, with the right size and checksums. Reads all of it."""
    if folder.measure(shard.file) != shard.bytes:
        return False

    def read(offset: int, length: int) -> bytes:
        return folder.read_range(shard.file, offset=offset, length=length)

    return _has_checksums(read, shard)


def _has_checksums(read: Callable[[int, int], bytes], shard: Shard) -> bool:
    """Return whether all row groups and frame tables have their checksums; `read` takes offset and length."""
    groups = shard.row_groups
    tables = (group for group in groups if group.frame_table)
    return all(compute_checksum(read(group.offset, group.length)) == group.checksum for group in groups) and all(
        compute_checksum(read(group.offset + group.length, group.table_bytes)) == group.frame_table for group in tables
    )


def _copy_small_file(source: Folder, target: Folder, name: str) -> None:
    try:
        data = source.read_about(name)
    except FileNotFoundError:
        return
    with tempfile.TemporaryDirectory(prefix="facscale-copy-") as spool:
        path = Path(spool) / Path(name).name
        path.write_bytes(data)
        target.put(name, source=path)
