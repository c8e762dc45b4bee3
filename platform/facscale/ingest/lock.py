"""Lets one run at a time write to an output, on any store.

Each run writes a file of its own below OUTPUT/__facscale__/locks and then lists them: of two runs, the one that wrote later
sees the other's file. A lock whose process has ended on this machine, or that was not renewed for EXPIRY_S by the clock of
the store, belongs to a dead run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil
from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError
from facscale.data.manifest import ABOUT
from facscale.data.storage import Folder, open_fsspec
from facscale.ingest.work_store import delete_files

FOLDER = f"{ABOUT}/locks"
RENEWAL_S = 30.0
EXPIRY_S = 300.0
ATTEMPTS = 5  # when several runs start at once


@dataclass(frozen=True)
class Owner:
    """The run that holds a lock."""

    host: str
    space: str  # of process numbers: a container has its own
    pid: int
    started: float  # of the process, seconds since 1970
    since: str  # of the run
    is_held: bool = False

    @classmethod
    def describe_self(cls) -> Self:
        """Describe this process."""
        return cls(
            host=socket.gethostname(),
            space=_get_process_space(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            since=datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
        )

    def has_ended(self) -> bool | None:
        """Return whether the process has ended; None if it runs elsewhere, so that this is not known."""
        if (self.host, self.space) != (socket.gethostname(), _get_process_space()):
            return None
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class _Lock(NamedTuple):
    name: str
    owner: Owner
    written: float  # by the clock of the store


class OutputLock:
    """Holds the lock of an output: `with OutputLock(url) as lock:`. Raises DataError if another run holds it."""

    def __init__(self, output: str) -> None:
        self.output, self._folder = output, Folder(output)
        self._name = f"{uuid.uuid4().hex}.json"
        self._owner = Owner.describe_self()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)

    def __enter__(self) -> Self:
        for attempt in range(ATTEMPTS):
            self._write(is_held=False)
            others = self._list_others()
            if not others:
                self._write(is_held=True)
                self._thread.start()
                return self
            self._delete([self._name])
            if any(lock.owner.is_held for lock in others) or attempt == ATTEMPTS - 1:
                raise self._refuse(others[0].owner)
            time.sleep(random.uniform(0.1, 1.0))
        raise AssertionError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._delete([self._name])
        if self._folder.is_local:
            with contextlib.suppress(OSError):  # others may have put something there
                (self._folder.path / FOLDER).rmdir()
                (self._folder.path / ABOUT).rmdir()

    def check(self) -> None:
        """Raise DataError if the lock was taken away, since this run seemed to be dead: another one may be writing."""
        if not self._folder.exists(f"{FOLDER}/{self._name}"):
            raise DataError(
                f"{self.output}: this run did not answer for {EXPIRY_S / 60:g} minutes, and another one has started to "
                "write there; run the pipeline again when that has ended"
            )

    def _write(self, *, is_held: bool) -> None:
        text = json.dumps({**asdict(self._owner), "is_held": is_held})
        self._folder.write(f"{FOLDER}/{self._name}", text.encode())

    def _renew(self) -> None:
        while not self._stop.wait(RENEWAL_S):
            with contextlib.suppress(DataError):  # a store that does not answer; tried again later
                if self._folder.exists(f"{FOLDER}/{self._name}"):
                    self._write(is_held=True)

    def _list_others(self) -> list[_Lock]:
        """List the locks of other runs, without those of dead ones, which are deleted."""
        locks = list(self._list_locks())
        now = next((lock.written for lock in locks if lock.name == self._name), 0.0)
        others = [lock for lock in locks if lock.name != self._name]
        dead = [lock for lock in others if _is_dead(lock, now)]
        self._delete([lock.name for lock in dead])
        return [lock for lock in others if lock not in dead]

    def _list_locks(self) -> Iterator[_Lock]:
        system, path = open_fsspec(f"{self._folder.url}/{FOLDER}", use_listings_cache=False)
        for info in system.ls(path, detail=True):
            name = str(info["name"]).rpartition("/")[2]
            if not name.endswith(".json") or name.startswith("."):
                continue
            try:
                owner = Owner(**json.loads(self._folder.read(f"{FOLDER}/{name}")))
            except FileNotFoundError:
                continue  # that run has just ended
            except (ValueError, TypeError) as error:
                raise DataError(f"{self._folder.url}/{FOLDER}/{name} is damaged ({error}); delete it") from None
            yield _Lock(name, owner, _read_time(system, info))

    def _delete(self, names: list[str]) -> None:
        delete_files(f"{self._folder.url}/{FOLDER}", names)

    def _refuse(self, owner: Owner) -> DataError:
        return DataError(
            f"{self.output}: another run is writing there: process {owner.pid} on {owner.host}, since {owner.since}. Wait "
            f"until it has ended, or stop it; if that machine is gone, its lock expires after {EXPIRY_S / 60:g} minutes"
        )


def _is_dead(lock: _Lock, now: float) -> bool:
    has_ended = lock.owner.has_ended()
    return lock.written < now - EXPIRY_S if has_ended is None else has_ended


def _read_time(system: Any, info: dict[str, Any]) -> float:
    """Return when a listed file was written, in seconds by the clock of its store."""
    if isinstance(system, LocalFileSystem):
        return float(info["mtime"])
    value = next((info[key] for key in ("LastModified", "last_modified", "updated", "mtime") if info.get(key)), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(value or 0.0)


def _get_process_space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
