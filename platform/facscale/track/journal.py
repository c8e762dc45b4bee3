"""Records on disk, in the order in which they were made, and how far each lane of them has been delivered.

    journal.jsonl   one record a line, only ever appended to
    sent.json       for each tracker: bytes of the journal that it has acknowledged, by lane, and the ids of its runs
    files/          what records of the lane "files" carry; each is deleted once the job's own tracker has it
    lock            held by the one process that sends

Lanes are delivered independently: an artifact store that is down does not hold up metrics. A process that is killed
leaves at most one unfinished line, which the next one skips.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from facscale.errors import UserError
from facscale.redact import redacted

LANES = ("records", "files")
SPOOLS = Path("~/.cache/facscale/journal").expanduser()  # where jobs keep their journals, one folder each


class SpoolError(UserError):
    """A folder holds no records."""


@dataclass(frozen=True)
class Entry:
    """A record and the byte of the journal at which the next one begins."""

    record: dict[str, Any]
    end: int


@dataclass
class Sent:
    """What one tracker has acknowledged."""

    target: str = ""  # the tracker's address and the experiment
    offsets: dict[str, int] = field(default_factory=dict)  # by lane
    runs: dict[str, str] = field(default_factory=dict)  # by key, the tracker's ids
    uri: str = ""  # the parts of `target`; notes of older versions have none
    experiment: str = ""


class Journal:
    """The journal of one job. Every thread may append; one process at a time may send."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.files = spool / "files"
        self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = spool / "journal.jsonl"
        self._mutex = threading.Lock()
        self._file = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
        weakref.finalize(self, os.close, self._file)  # who looks at hundreds of journals must not run out of files
        self._steps: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._lock: BinaryIO | None = None
        self._finish_last_line()
        for entry in self.entries(0):
            self._note(entry.record)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. Metrics that the journal holds already, for the same run, name and step, are dropped.

        A job that resumes from a checkpoint repeats some steps: their first values stay.
        """
        with self._mutex:
            fresh = self._without_known_metrics(record)
            if fresh is None:
                return
            self._note(fresh)
            line = redacted(json.dumps(fresh, default=str)).encode() + b"\n"
            os.write(self._file, line)  # one call: whole or not at all

    def entries(self, start: int) -> Iterator[Entry]:
        """Whole records from byte `start` on; lines that a crash left unfinished are skipped."""
        with self._path.open("rb") as file:
            file.seek(start)
            end = start
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                yield Entry(record, end)

    def keep(self, path: Path, *, name: str) -> str:
        """Copy a file or folder into the spool as `name`; returns the folder under `files` that holds it."""
        holder = f"{time.time_ns()}-{os.urandom(3).hex()}"
        (self.files / holder).mkdir()
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, self.files / holder / name)
        return holder

    def held(self, name: str) -> Path:
        """The folder that `keep` named. Raises SpoolError for a name that leads elsewhere: a journal may be another's."""
        folder = self.files / name
        if Path(name).name != name or name == ".." or any(p.is_symlink() for p in (folder, *folder.rglob("*"))):
            raise SpoolError(f"{self._path} names what lies outside its spool ({name!r}): it is not as we wrote it")
        return folder

    def drop(self, name: str) -> None:
        """Delete what `keep` copied."""
        shutil.rmtree(self.held(name), ignore_errors=True)

    def sync(self) -> None:
        """Wait until everything appended so far is on the disk."""
        os.fsync(self._file)

    def sent(self) -> dict[str, Sent]:
        """What is delivered, by target; nothing, where there is no (readable) note of it."""
        try:
            notes = json.loads((self.spool / "sent.json").read_text())
            return {note["target"]: Sent(**note) for note in (notes if isinstance(notes, list) else [notes])}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def acknowledge(self, sent: Sent) -> None:
        """Note what is delivered, atomically. Only who holds the lock may."""
        notes = self.sent() | {sent.target: sent}
        part = self.spool / "sent.json.part"
        part.write_text(json.dumps([vars(note) for note in notes.values()]))
        part.replace(self.spool / "sent.json")

    def covers(self, sent: Sent) -> bool:
        """Whether that is everything."""
        return all(next(self.entries(sent.offsets.get(lane, 0)), None) is None for lane in LANES)

    def lock(self) -> bool:
        """Become the sender; False while another process is. The lock ends with the process, however it ends."""
        if self._lock is None:
            file = (self.spool / "lock").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._lock = file
        return True

    @property
    def locked(self) -> bool:
        """Whether this process is the sender."""
        return self._lock is not None

    def unlock(self) -> None:
        """Let another process send."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _without_known_metrics(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        if record["do"] != "metrics":
            return dict(record)
        values = {
            name: value if math.isfinite(value) else str(value)  # JSON has no nan
            for name, value in record["values"].items()
            if record["step"] not in self._steps[record["run"], name]
        }
        return {**record, "values": values} if values else None

    def _note(self, record: Mapping[str, Any]) -> None:
        if record.get("do") == "metrics":
            for name in record["values"]:
                self._steps[record["run"], name].add(record["step"])

    def _finish_last_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")
