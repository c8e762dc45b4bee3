"""Records on disk in the order in which they were logged, with how far each lane of them has been delivered.

    journal.jsonl   one record a line, only ever appended to
    sent.json       for each tracker: bytes of the journal that it has acknowledged, by lane, and the ids of its runs
    files/          what records of the lane "files" carry; each is deleted once the job's own tracker has it
    lock            held by the one process that sends

Lanes are delivered independently: an artifact store that is down does not hold up metrics. A process that is killed
leaves at most one unfinished line, which the next process skips.
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
from facscale.names import expand_cache
from facscale.redact import redact

LANES = ("records", "files")
SPOOL_ROOT = expand_cache("~/.cache/facscale/journal")  # jobs keep their journals here, one folder each
Record = dict[str, Any]


class SpoolError(UserError):
    """A folder is not a usable spool."""


@dataclass(frozen=True)
class JournalEntry:
    """A record, and the byte of the journal at which the next one begins."""

    record: Record
    end: int


@dataclass
class Delivery:
    """What one tracker has acknowledged: a note in sent.json."""

    target: str = ""  # the tracker's address and the experiment
    offsets: dict[str, int] = field(default_factory=dict)  # by lane
    runs: dict[str, str] = field(default_factory=dict)  # the tracker's run ids, by key
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
        weakref.finalize(self, os.close, self._file)  # `facscale sync` opens hundreds of journals in one process
        self._steps: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._lock_file: BinaryIO | None = None
        self._finish_last_line()
        for entry in self.read_entries(0):
            self._remember_steps(entry.record)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, without metrics that the journal already holds for the same run, name and step.

        A job that resumes from a checkpoint repeats some steps: their first values stay.
        """
        with self._mutex:
            fresh = self._drop_repeated_metrics(record)
            if fresh is None:
                return
            self._remember_steps(fresh)
            line = redact(json.dumps(fresh, default=str)).encode() + b"\n"
            os.write(self._file, line)  # a single call, so that a line is appended entirely or not at all

    def read_entries(self, start: int) -> Iterator[JournalEntry]:
        """Yield all complete records from byte `start` on; lines that a crash left unfinished are skipped."""
        with self._path.open("rb") as file:
            file.seek(start)
            end = start
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if not _is_record(record):  # the disk damaged it, or somebody else wrote it
                    continue
                yield JournalEntry(record, end)

    def add_file(self, path: Path, *, name: str) -> str:
        """Copy a file or folder into the spool as `name`; returns the name of the folder in `files` that holds it."""
        folder = f"{time.time_ns()}-{os.urandom(3).hex()}"
        (self.files / folder).mkdir()
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, self.files / folder / name)
        return folder

    def get_file_folder(self, name: str) -> Path:
        """Return the path of a folder that `add_file` named.

        Raises SpoolError for a name that leads out of the spool: a journal may come from somebody else.
        """
        folder = self.files / name
        if Path(name).name != name or name == ".." or any(p.is_symlink() for p in (folder, *folder.rglob("*"))):
            raise SpoolError(f"{self._path} names a file outside its spool ({name!r}): it was not written by facscale")
        return folder

    def remove_file(self, name: str) -> None:
        """Delete what `add_file` copied."""
        shutil.rmtree(self.get_file_folder(name), ignore_errors=True)

    def sync(self) -> None:
        """Wait until everything appended so far is on the disk."""
        os.fsync(self._file)

    def load_deliveries(self) -> dict[str, Delivery]:
        """Read sent.json, by target; empty if it is missing or damaged, so that everything is sent again."""
        try:
            notes = json.loads((self.spool / "sent.json").read_text())
            return {note["target"]: Delivery(**note) for note in (notes if isinstance(notes, list) else [notes])}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def save_delivery(self, delivery: Delivery) -> None:
        """Write a delivery to sent.json, atomically. The caller must hold the lock."""
        notes = self.load_deliveries() | {delivery.target: delivery}
        part = self.spool / "sent.json.part"
        part.write_text(json.dumps([vars(note) for note in notes.values()]))
        part.replace(self.spool / "sent.json")

    def is_delivered(self, delivery: Delivery) -> bool:
        """Whether a delivery has reached the end of the journal in every lane."""
        return all(next(self.read_entries(delivery.offsets.get(lane, 0)), None) is None for lane in LANES)

    def try_lock(self) -> bool:
        """Become the sender; False while another process is. The lock ends with the process, however it ends."""
        if self._lock_file is None:
            file = (self.spool / "lock").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._lock_file = file
        return True

    @property
    def has_lock(self) -> bool:
        """Whether this process is the sender."""
        return self._lock_file is not None

    def unlock(self) -> None:
        """Let another process send."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _drop_repeated_metrics(self, record: Mapping[str, Any]) -> Record | None:
        if record["do"] != "metrics":
            return dict(record)
        values = {
            name: value if math.isfinite(value) else str(value)  # JSON has no nan
            for name, value in record["values"].items()
            if record["step"] not in self._steps[record["run"], name]
        }
        return {**record, "values": values} if values else None

    def _remember_steps(self, record: Mapping[str, Any]) -> None:
        if record.get("do") == "metrics":
            for name in record["values"]:
                self._steps[record["run"], name].add(record["step"])

    def _finish_last_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")


def _is_record(record: Any) -> bool:
    """Whether a line of a journal has what every record has, and a record of its kind."""
    if not (isinstance(record, dict) and all(isinstance(record.get(key), str) for key in ("do", "run", "lane"))):
        return False
    if record["do"] == "metrics":
        return isinstance(record.get("values"), dict) and isinstance(record.get("step"), int | float)
    if record["do"] == "run":
        return all(isinstance(record.get(key), str) for key in ("uri", "experiment", "name"))
    return isinstance(record.get("file", ""), str)
