"""A bounded cache on local disk for the row groups of remote data sets.

A file mirrors one row group and is named by its checksum, so equal row groups are stored once. It is created with its
final size and without content (a sparse file); what is read from the store is written into its place. Whether a stretch is
there, and whole, is decided by the checksums of what is read, so a hole, a torn write and a damaged disk are the same: the
stretch is read from the store again.

What is in the cache stays: an epoch reads each row group once, and replacing the least recently used one would then replace
each shortly before it is needed again. Only files that the running data sets do not have, and that nobody has used for
an hour, make room.

The cache uses only a folder that it created itself (it leaves a marker there) and deletes only files whose names have its
own form: never a data set. Several processes of a node share one folder: space is reserved under a lock before anything is
written, so that the bound holds for all processes together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from facscale.data.manifest import compute_checksum
from facscale.names import expand_cache

log = logging.getLogger(__name__)

MARKER = "THIS-FOLDER-IS-A-FACSCALE-CACHE"
OWN_FILE = re.compile(r"[0-9a-f]{32}\.rows|\.[0-9a-f]{32}\.[^.]+\.partial")  # partial: of earlier releases
IDLE_S = 3600.0  # a file that is unused for so long belongs to no running job
FULL_S = 60.0  # how long a full cache is not searched for files that have become idle
LOW_WATER = 0.9  # share of the bound that is left in use after an eviction, so that not every new file needs one


class CacheEntry:
    """The file of one row group. Reads and writes stretches; whoever reads them verifies them."""

    def __init__(self, cache: Cache, path: Path, handle: int) -> None:
        self._cache, self._path, self._handle = cache, path, handle

    def read(self, offset: int, length: int) -> bytes:
        """Read a stretch: zeros where nothing was written, b"" on an error."""
        try:
            return os.pread(self._handle, length, offset)
        except OSError as error:
            self._cache.warn(str(error))
            return b""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write a stretch; an error ends all writing to the cache."""
        if not self._cache.is_writable:
            return
        try:
            os.pwrite(self._handle, data, offset)
        except OSError as error:
            self._cache.stop_writing(self._path, error)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


class Cache:
    """A bounded store of row groups by checksum. Whatever fails in it costs speed, but never ends a run."""

    def __init__(self, folder: str | Path, *, limit_bytes: int, protected: Collection[str] = ()) -> None:
        """Create `folder` if it is missing. A folder that holds foreign files, or cannot be written, is not used.

        `protected`: checksums of row groups that this process needs again and does not delete.
        """
        self.folder = expand_cache(str(folder))
        self.limit_bytes = limit_bytes
        self._protected = frozenset(protected)
        self._has_warned = threading.Event()
        self._is_usable = self._claim_folder()
        self.is_writable = True
        self._full_until = 0.0  # monotonic seconds

    @contextlib.contextmanager
    def open(self, name: str, size: int, *, is_kept: bool = True) -> Iterator[CacheEntry | None]:
        """Open the file of the row group with checksum `name`, of `size` bytes.

        It is created if it is missing, it fits and `is_kept`; None where there is none.
        """
        entry = self._open(name, size, is_kept=is_kept) if self._is_usable else None
        try:
            yield entry
        finally:
            if entry is not None:
                entry.close()

    def get(self, name: str, fetch: Callable[[], bytes], *, is_kept: bool = True) -> bytes:
        """Return the bytes whose checksum is `name`: from disk, else from `fetch` (and store them). Raises as `fetch`."""
        if not self._is_usable:
            return fetch()
        with contextlib.suppress(OSError):
            data = (path := self._get_path(name)).read_bytes()
            if compute_checksum(data) == name:
                os.utime(path)
                return data
        data = fetch()
        with self.open(name, len(data), is_kept=is_kept) as entry:
            if entry is not None:
                entry.write(0, data)
        return data

    def measure_bytes(self) -> int:
        """Add up the sizes of all its files on disk; holes count as if they were filled."""
        with self._hold_lock():
            return self._sum_sizes()

    def warn(self, reason: str) -> None:
        """Log, once, why the cache is not used."""
        if not self._has_warned.is_set():
            self._has_warned.set()
            log.warning(
                "the cache %s is not used: %s; row groups are read from their store each time", self.folder, reason
            )

    def stop_writing(self, path: Path, error: OSError) -> None:
        """Write nothing any more, and delete the file that could not be written."""
        self.is_writable = False
        self.warn("the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error))
        with contextlib.suppress(OSError), self._hold_lock():
            size = path.stat().st_size
            path.unlink()
            self._write_usage(max(0, self._read_usage() - size))

    def _get_path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"

    def _open(self, name: str, size: int, *, is_kept: bool) -> CacheEntry | None:
        path = self._get_path(name)
        try:
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDWR)
                os.utime(handle)  # the time of modification serves as the time of last use
                return CacheEntry(self, path, handle)
            if is_kept and self.is_writable and size <= self.limit_bytes and time.monotonic() >= self._full_until:
                if self._reserve(path, size):
                    return CacheEntry(self, path, os.open(path, os.O_RDWR))
                self._full_until = time.monotonic() + FULL_S
        except OSError as error:
            self.is_writable = False
            self.warn("the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error))
        return None

    def _reserve(self, path: Path, size: int) -> bool:
        """Create an empty file of `size` bytes and add it to the shared usage; return False where it does not fit."""
        with self._hold_lock():
            if path.exists():  # another process was faster
                return True
            used = self._read_usage()
            if used + size > self.limit_bytes:
                used = self._evict(size)
            fits = used + size <= self.limit_bytes
            if fits:
                with path.open("xb") as file:
                    file.truncate(size)
            self._write_usage(used + size if fits else used)
        return fits

    def _claim_folder(self) -> bool:
        marker = self.folder / MARKER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The marker is tested twice: another process may have claimed the folder between the first two tests.
            if not marker.exists() and any(self.folder.iterdir()) and not marker.exists():
                self.warn("it holds files that are not the cache's")
                return False
            marker.touch()
            with self._hold_lock():
                self._write_usage(self._sum_sizes())
        except OSError as error:
            self.warn(str(error))
            return False
        return True

    def _evict(self, size: int) -> int:
        """Delete idle files, the least recently used first, until `size` bytes fit; return the bytes that remain."""
        files = sorted(self._list_files())
        used = sum(file_size for _, file_size, _ in files)
        goal = min(int(LOW_WATER * self.limit_bytes), self.limit_bytes - size)
        for last_use, file_size, path in files:
            if used <= goal or time.time() - last_use < IDLE_S:
                break
            if path.stem in self._protected:
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            used -= file_size
        return used

    def _sum_sizes(self) -> int:
        return sum(size for _, size, _ in self._list_files())

    def _list_files(self) -> list[tuple[float, int, Path]]:
        """Return (last use, bytes, path) of each of its own files."""
        files = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if OWN_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        files.append((status.st_mtime, status.st_size, Path(entry.path)))
        return files

    @contextlib.contextmanager
    def _hold_lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_usage(self) -> int:
        try:
            return int((self.folder / "usage").read_text())
        except (FileNotFoundError, ValueError):
            return self._sum_sizes()

    def _write_usage(self, size: int) -> None:
        (self.folder / "usage").write_text(str(size))
