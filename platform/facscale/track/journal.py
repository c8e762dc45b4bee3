"""Records on disk in the order in which they were logged, with how far each lane of them has been delivered.

    journal.jsonl   one record a line, only ever appended to
    sent.json       for each tracker: bytes of the journal that it has acknowledged, by lane, and the ids of its runs
    files/          what records of the lane "files" carry; each is deleted once the job's own tracker has it
    refused.jsonl   records that a tracker will never accept, each with the reason; their files stay in files/
    lock            held by the one process that sends
    owner           held by the one job that logs, and what it says of itself

Lanes are delivered independently: an artifact store that is down does not hold up metrics. A process that is killed
leaves at most one unfinished line, which the next process skips. Nothing here raises in the middle of a training: what
a full or read-only disk does not take waits in memory, and is written as soon as there is space.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from facscale.errors import UserError
from facscale.files import LockedError, hold_lock, write_atomically
from facscale.names import expand_cache
from facscale.redact import redact

LANES = ("records", "files")
SPOOL_ROOT = expand_cache("~/.cache/facscale/journal")  # jobs keep their journals here, one folder each
JOURNAL, REFUSED, OWNER = "journal.jsonl", "refused.jsonl", "owner"
MINOR_KINDS = ("params", "tags")  # no result is lost with them
Record = dict[str, Any]
log = logging.getLogger("facscale.track")


class SpoolError(UserError):
    """A folder is not a usable spool."""


class SpoolInUseError(SpoolError):
    """Another job of this machine logs to a spool; the message is what it says of itself."""


@contextmanager
def hold_spool(spool: Path, *, owner: str) -> Iterator[None]:
    """Be the only job of this machine that logs to a spool, for the block. Raises SpoolInUseError."""
    with contextlib.suppress(OSError):
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with hold_lock(spool / OWNER, owner=owner):
            yield
    except LockedError as error:
        raise SpoolInUseError(str(error)) from None


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
        """Raises SpoolError where the folder cannot be made or written."""
        self.spool = spool
        self.files = spool / "files"
        self._path = spool / JOURNAL
        try:
            self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
        except OSError as error:
            raise SpoolError(f"{spool} cannot keep a journal: {error.strerror}") from None
        self._mutex = threading.Lock()
        weakref.finalize(self, os.close, self._file)  # `facscale sync` opens hundreds of journals in one process
        self._steps: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._lock_file: BinaryIO | None = None
        self._unwritten: deque[bytes] = deque()  # lines that the disk has not taken yet
        self._is_line_open = self._has_open_line()
        self.lost_files: list[str] = []  # names of the files that the disk did not take
        for entry in self.read_entries(0):
            self._remember_steps(entry.record)

    @classmethod
    def open(cls, spool: Path) -> Journal:
        """The journal in the folder `spool`; in the temporary folder, with a warning, where that cannot be written."""
        try:
            return cls(spool)
        except SpoolError as error:
            other = Path(tempfile.gettempdir()) / f"facscale-journal-{os.getuid()}"
            other.mkdir(mode=0o700, exist_ok=True)
            if other.stat().st_uid != os.getuid() or other.is_symlink():
                raise
            log.warning("%s; it is kept in %s", error, other / spool.name)
            return cls(other / spool.name)

    @property
    def unwritten_count(self) -> int:
        """Records that the disk has not taken yet, and that are lost with this process."""
        return len(self._unwritten)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, without metrics that the journal already holds for the same run, name and step.

        A job that resumes from a checkpoint repeats some steps: their first values stay.
        """
        with self._mutex:
            fresh = self._drop_repeated_metrics(record)
            if fresh is None:
                return
            self._remember_steps(fresh)
            self._unwritten.append(redact(json.dumps(fresh, default=str)).encode() + b"\n")
            self._write_waiting()

    def write_waiting(self) -> None:
        """Write the records that the disk has not taken so far, as far as it takes them now."""
        with self._mutex:
            self._write_waiting()

    def _write_waiting(self) -> None:
        had_waited = len(self._unwritten) > 1
        try:
            while self._unwritten:
                self._write_line(self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            if not had_waited:
                log.warning("%s: %s; records wait in memory until there is space", self._path, error.strerror)

    def _write_line(self, line: bytes) -> None:
        """Append a line, entirely or not at all: what of it a full disk did take is cut off again."""
        start = os.fstat(self._file).st_size
        data = memoryview(b"\n" + line if self._is_line_open else line)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            self._is_line_open = True  # until it is cut off, the next line begins with a line's end
            os.ftruncate(self._file, start)
            self._is_line_open = self._has_open_line()
            raise
        self._is_line_open = False

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
        """Copy a file or folder into the spool as `name`; returns the name of the folder in `files` that holds it.

        "" where the disk does not take it: then `lost_files` holds its name.
        """
        folder = f"{time.time_ns()}-{os.urandom(3).hex()}"
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        try:
            (self.files / folder).mkdir()
            copy(path, self.files / folder / name)
        except (OSError, shutil.Error) as error:
            if not path.exists():
                raise
            shutil.rmtree(self.files / folder, ignore_errors=True)
            log.warning("%s cannot be kept for MLflow in %s: %s", name, self.files, error)
            self.lost_files.append(name)
            return ""
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
        """Write what waits, and wait until everything appended so far is on the disk. Raises OSError."""
        self.write_waiting()
        os.fsync(self._file)

    def load_deliveries(self) -> dict[str, Delivery]:
        """Read sent.json, by target; empty if it is missing or damaged, so that everything is sent again."""
        try:
            notes = json.loads((self.spool / "sent.json").read_text())
            return {note["target"]: Delivery(**note) for note in (notes if isinstance(notes, list) else [notes])}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def save_delivery(self, delivery: Delivery) -> None:
        """Write a delivery to sent.json, atomically. The caller must hold the lock. Raises OSError."""
        notes = self.load_deliveries() | {delivery.target: delivery}
        write_atomically(self.spool / "sent.json", json.dumps([vars(note) for note in notes.values()]).encode())

    def add_refused(self, record: Record, *, target: str, reason: str) -> None:
        """Keep a record that the tracker `target` will not accept. Raises OSError."""
        kept = [*self.read_refused(), {**record, "target": target, "error": reason}]
        self.save_refused(kept)

    def read_refused(self) -> list[Record]:
        """Read the records that a tracker refused, with its `target` and the reason, `error`; damaged lines are left out."""
        if not (self.spool / REFUSED).exists():
            return []
        records = []
        for line in (self.spool / REFUSED).read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def count_refused(self, target: str) -> int:
        """Count the records that the tracker `target` refused, but for params and tags, which never change."""
        return sum(item.get("target") == target and item["do"] not in MINOR_KINDS for item in self.read_refused())

    def save_refused(self, records: Sequence[Record]) -> None:
        """Replace the records that a tracker refused. Raises OSError."""
        if records:
            lines = "".join(redact(json.dumps(record)) + "\n" for record in records)
            write_atomically(self.spool / REFUSED, lines.encode())
        else:
            (self.spool / REFUSED).unlink(missing_ok=True)

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

    def _has_open_line(self) -> bool:
        """Whether the journal's last line lacks its end, because a process was killed or the disk was full."""
        size = os.fstat(self._file).st_size
        return bool(size) and os.pread(self._file, 1, size - 1) != b"\n"


def _is_record(record: Any) -> bool:
    """Whether a line of a journal has what every record has, and a record of its kind."""
    if not (isinstance(record, dict) and all(isinstance(record.get(key), str) for key in ("do", "run", "lane"))):
        return False
    if record["do"] == "metrics":
        return isinstance(record.get("values"), dict) and isinstance(record.get("step"), int | float)
    if record["do"] == "run":
        return all(isinstance(record.get(key), str) for key in ("uri", "experiment", "name"))
    return isinstance(record.get("file", ""), str)
