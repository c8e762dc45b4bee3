"""Row groups of remote data sets on local disk, up to a bound.

A file's name is the checksum of its content, so equal row groups are stored once and nothing can go stale. The cache
touches only a folder that it made itself (it leaves a marker there) and deletes only files that carry its kind of name:
never a data set. Several processes of a node share one folder: files appear whole, and room is booked under a lock
before anything is written, so that the bound holds for all of them together.
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

from facscale.data.manifest import checksum

log = logging.getLogger(__name__)

MARKER = "THIS-FOLDER-IS-A-FACSCALE-CACHE"
OWN_FILE = re.compile(r"[0-9a-f]{32}\.rows|\.[0-9a-f]{32}\.[^.]+\.partial")
ABANDONED_S = 3600.0  # a partial file of this age belongs to no living writer
LOW_WATER = 0.9  # how full the cache is after it made room: not each new file must look for an old one


class Cache:
    """A bounded store of bytes by checksum; whatever goes wrong with it costs speed, never a run."""

    def __init__(self, folder: str | Path, *, limit_bytes: int) -> None:
        """`folder` is made if it is missing. One that holds foreign files, or cannot be written, is not used at all."""
        self.folder = Path(folder).expanduser()
        self.limit_bytes = limit_bytes
        self._warned = threading.Event()
        self._usable = self._claim()
        self._writable = True

    def get(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes whose checksum is `name`: from disk, or else from `fetch` (and kept). Raises what `fetch` raises."""
        path = self.folder / f"{name}.rows"
        if self._usable and (data := self._read(path, name)) is not None:
            return data
        data = fetch()
        if self._usable and self._writable and len(data) <= self.limit_bytes:
            self._keep(path, data)
        return data

    def size_bytes(self) -> int:
        """Bytes of all its files, by looking at each."""
        with self._locked():
            return self._sum()

    def _sum(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _claim(self) -> bool:
        marker = self.folder / MARKER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The second look: another process may have claimed it during the first two.
            if not marker.exists() and any(self.folder.iterdir()) and not marker.exists():
                self._warn("it holds files that are not the cache's")
                return False
            marker.touch()
            with self._locked():
                self._write_usage(self._sum())
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
        if checksum(data) != name:
            with contextlib.suppress(OSError):
                self._drop(path, len(data))
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # its time of modification is its time of last use
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        partial: Path | None = None
        try:
            partial = self._book(path.stem, len(data))
            if partial is not None:
                with partial.open("r+b") as file:
                    file.write(data)
                self._publish(partial, path, len(data))
        except OSError as error:
            self._writable = False
            self._warn("the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error))
            with contextlib.suppress(OSError):
                if partial is not None:
                    self._drop(partial, len(data))

    def _book(self, stem: str, size: int) -> Path | None:
        """A partial file of `size` bytes, entered in the shared account; None where not enough can be deleted for it.

        The file has its full length from the start (without blocks on disk), so whoever adds up the files sees it.
        """
        with self._locked():
            used = self._read_usage()
            if used + size > self.limit_bytes:
                used = self._make_room(size)
            if used + size > self.limit_bytes:
                self._write_usage(used)
                return None
            handle, partial = tempfile.mkstemp(prefix=f".{stem}.", suffix=".partial", dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.truncate(size)
            self._write_usage(used + size)
        return Path(partial)

    def _publish(self, partial: Path, path: Path, size: int) -> None:
        # Under the lock, as every change of names, so that whoever adds up the files counts each once.
        with self._locked():
            if path.exists():  # another process was faster
                self._write_usage(max(0, self._read_usage() - size))
            partial.replace(path)

    def _drop(self, path: Path, size: int) -> None:
        with self._locked():
            path.unlink(missing_ok=True)
            self._write_usage(max(0, self._read_usage() - size))

    def _make_room(self, size: int) -> int:
        """Delete the files that were used longest ago; returns the bytes that remain."""
        files = sorted(self._files())
        used = sum(bytes_ for _, bytes_, _ in files)
        goal = min(int(LOW_WATER * self.limit_bytes), self.limit_bytes - size)
        for when, bytes_, path in files:
            if used <= goal:
                break
            if path.suffix == ".partial" and time.time() - when < ABANDONED_S:
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            used -= bytes_
        return used

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of each of its own files."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if OWN_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_usage(self) -> int:
        try:
            return int((self.folder / "usage").read_text())
        except (FileNotFoundError, ValueError):
            return self._sum()

    def _write_usage(self, size: int) -> None:
        (self.folder / "usage").write_text(str(size))

    def _warn(self, why: str) -> None:
        if not self._warned.is_set():
            self._warned.set()
            log.warning(
                "the cache %s is not used: %s; row groups are read from their store each time", self.folder, why
            )
