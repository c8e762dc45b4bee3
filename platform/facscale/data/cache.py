"""A bounded cache on local disk for the row groups of remote data sets.

A file's name is the checksum of its content, so equal row groups are stored once and no entry can become stale. The cache
uses only a folder that it created itself (it leaves a marker there) and deletes only files whose names have its own
form: never a data set. Several processes of a node share one folder: files appear complete, and space is reserved under
a lock before anything is written, so that the bound holds for all processes together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from facscale.data.manifest import compute_checksum
from facscale.names import expand_cache

log = logging.getLogger(__name__)

MARKER = "THIS-FOLDER-IS-A-FACSCALE-CACHE"
OWN_FILE = re.compile(r"[0-9a-f]{32}\.rows|\.[0-9a-f]{32}\.[^.]+\.partial")
ABANDONED_S = 3600.0  # a partial file older than this has no living writer
LOW_WATER = 0.9  # share of the bound that is left in use after an eviction, so that not every new file needs one


class Cache:
    """A bounded store of bytes by checksum. Whatever fails in it costs speed, but never ends a run."""

    def __init__(self, folder: str | Path, *, limit_bytes: int) -> None:
        """Create `folder` if it is missing. A folder that holds foreign files, or cannot be written, is not used."""
        self.folder = expand_cache(str(folder))
        self.limit_bytes = limit_bytes
        self._has_warned = threading.Event()
        self._is_usable = self._claim_folder()
        self._is_writable = True

    def get(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """Return the bytes whose checksum is `name`: from disk, else from `fetch` (and store them). Raises as `fetch`."""
        path = self.folder / f"{name}.rows"
        if self._is_usable and (data := self._read(path, name)) is not None:
            return data
        data = fetch()
        if self._is_usable and self._is_writable and len(data) <= self.limit_bytes:
            self._store(path, data)
        return data

    def measure_bytes(self) -> int:
        """Add up the sizes of all its files on disk."""
        with self._hold_lock():
            return self._sum_sizes()

    def _sum_sizes(self) -> int:
        return sum(size for _, size, _ in self._list_files())

    def _claim_folder(self) -> bool:
        marker = self.folder / MARKER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The marker is tested twice: another process may have claimed the folder between the first two tests.
            if not marker.exists() and any(self.folder.iterdir()) and not marker.exists():
                self._warn("it holds files that are not the cache's")
                return False
            marker.touch()
            with self._hold_lock():
                self._write_usage(self._sum_sizes())
        except OSError as error:
            self._warn(str(error))
            return False
        return True

    def _read(self, path: Path, name: str) -> bytes | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(str(error))
            return None
        if compute_checksum(data) != name:
            with contextlib.suppress(OSError):
                self._delete(path, len(data))
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of modification serves as the time of last use
        return data

    def _store(self, path: Path, data: bytes) -> None:
        partial: Path | None = None
        try:
            partial = self._reserve(path.stem, len(data))
            if partial is not None:
                with partial.open("r+b") as file:
                    file.write(data)
                self._publish(partial, path, len(data))
        except OSError as error:
            self._is_writable = False
            self._warn("the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error))
            with contextlib.suppress(OSError):
                if partial is not None:
                    self._delete(partial, len(data))

    def _reserve(self, stem: str, size: int) -> Path | None:
        """Create a partial file of `size` bytes and add it to the shared usage; None where it does not fit.

        The file has its full length from the start (without blocks on disk), so that adding up the files counts it.
        """
        with self._hold_lock():
            used = self._read_usage()
            if used + size > self.limit_bytes:
                used = self._evict(size)
            if used + size > self.limit_bytes:
                self._write_usage(used)
                return None
            handle, partial = tempfile.mkstemp(prefix=f".{stem}.", suffix=".partial", dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.truncate(size)
            self._write_usage(used + size)
        return Path(partial)

    def _publish(self, partial: Path, path: Path, size: int) -> None:
        # Files are renamed under the lock, so that adding up the files counts each of them once.
        with self._hold_lock():
            if path.exists():  # another process was faster
                self._write_usage(max(0, self._read_usage() - size))
            partial.replace(path)

    def _delete(self, path: Path, size: int) -> None:
        with self._hold_lock():
            path.unlink(missing_ok=True)
            self._write_usage(max(0, self._read_usage() - size))

    def _evict(self, size: int) -> int:
        """Delete the least recently used files until `size` bytes fit; return the bytes that remain."""
        files = sorted(self._list_files())
        used = sum(file_size for _, file_size, _ in files)
        goal = min(int(LOW_WATER * self.limit_bytes), self.limit_bytes - size)
        for last_use, file_size, path in files:
            if used <= goal:
                break
            if path.suffix == ".partial" and time.time() - last_use < ABANDONED_S:
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            used -= file_size
        return used

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

    def _warn(self, reason: str) -> None:
        if not self._has_warned.is_set():
            self._has_warned.set()
            log.warning(
                "the cache %s is not used: %s; row groups are read from their store each time", self.folder, reason
            )
