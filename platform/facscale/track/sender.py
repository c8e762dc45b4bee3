"""Delivers the journal to MLflow in the background, each record once.

A batch is sent, then its end is noted in `sent.json`. If the note is missing, because the process died or an answer was
lost, the batch is sent again without harm: runs are found by their tag, steps that the tracker has are read from it and
left out, everything else replaces itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from mlflow.exceptions import MlflowException

from facscale.redact import redact
from facscale.track.client import LostFileError, RecordClient, RecordRefusedError, RunDeletedError
from facscale.track.fetch import fetch_files
from facscale.track.journal import LANES, MINOR_KINDS, REFUSED, Delivery, Journal, JournalEntry, Record, SpoolError
from facscale.track.login import LOGIN_HINT, is_login_refused, restore_password

COLLECT_S = 1.0  # in which records gather before they are sent together
MAX_PAUSE_S = 15.0  # between attempts while the tracker does not answer
CHUNK_SIZE = 2000  # records read at once
MERGEABLE_KINDS = ("metrics", "params", "tags")  # one request can carry all of these together
log = logging.getLogger("facscale.track")


class RunRefusedError(Exception):
    """The tracker refuses a run, so that nothing of it can be sent."""


class Sender:
    """One thread that delivers a journal to one experiment."""

    def __init__(self, journal: Journal, *, uri: str, experiment: str, is_copy: bool = False) -> None:
        """`is_copy`: the tracker is not the job's own, so files stay in the journal after they are delivered."""
        self._journal, self._is_copy = journal, is_copy
        full_uri, self._experiment = uri.rstrip("/"), experiment
        self._uri = redact(full_uri)  # for everything that is written
        self._delivery = Delivery(f"{self._uri} {experiment}", uri=self._uri, experiment=experiment)
        self._client = RecordClient(full_uri, experiment=experiment, runs=self._delivery.runs)
        self._thread = threading.Thread(target=self._loop, name="facscale-track", daemon=True)
        self._has_new, self._is_stopping, self._is_delivered = threading.Event(), threading.Event(), False
        self._has_warned = False
        self._refetched: set[str] = set()  # file folders that were fetched from another tracker
        self._refused: list[Record] = []  # without params and tags, and without those that a later one has replaced
        self._has_warned_of_lost_files = False
        self.rejection = ""  # why it accepts none at all

    @classmethod
    def from_journal(cls, journal: Journal, *, uri: str | None = None) -> Sender:
        """Create a sender to `uri`, or to the tracker that the journal's newest run names.

        Raises SpoolError for a journal without runs.
        """
        runs = [entry.record for entry in journal.read_entries(0) if entry.record["do"] == "run"]
        if not runs:
            raise SpoolError(f"{journal.spool} holds no records of a run; is it the spool of a job?")
        own_uri, experiment = runs[-1]["uri"], runs[-1]["experiment"]
        is_copy = uri is not None and redact(uri.rstrip("/")) != own_uri
        return cls(journal, uri=uri or restore_password(own_uri), experiment=experiment, is_copy=is_copy)

    @property
    def refused(self) -> list[str]:
        """Why the tracker has not accepted single records, without params and tags."""
        return [record["error"].splitlines()[0][:200] for record in self._refused]

    @property
    def target(self) -> dict[str, str]:
        """Where the records go; the record of every run holds it, for a process that sends the journal later."""
        return {"uri": self._uri, "experiment": self._experiment}

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Notify the thread of new records."""
        self._has_new.set()

    def stop(self, *, wait: float) -> bool:
        """Deliver the rest, for at most `wait` seconds; a tracker that does not answer is tried once.

        Returns whether everything is delivered.
        """
        self._is_stopping.set()
        self._has_new.set()
        self._thread.join(wait)
        return self._is_delivered and not self._thread.is_alive()

    def get_run_url(self, key: str) -> str:
        """Return the address of a run's page, or the tracker's own while the run is not delivered."""
        return self._client.get_run_url(key)

    @property
    def table_url(self) -> str:
        """The address of the page with the F1 of all runs of the experiment; "" until the tracker has answered."""
        return self._client.table_url

    def flush(self) -> bool:
        """Deliver everything that is in the journal; False when that is not possible now."""
        try:
            if not self._acquire_journal():
                return False
            self._journal.sync()
        except OSError as error:  # the disk of the journal is full, read-only or gone
            self._warn_disk(error)
            return False
        for lane in LANES:
            try:
                self._deliver(lane)
            except RunRefusedError as error:
                self._warn_rejection(error)
                return False
            except RunDeletedError as error:
                log.warning("%s: sending everything again, to a new run", error)
                self._delivery.offsets.clear()
                self._delivery.runs.clear()
                return self.flush()
            except Exception as error:  # noqa: BLE001  # training goes on whatever is wrong with the tracker
                self._client.invalidate_cache()
                self._warn(error)
                return False
        if self._has_warned:
            log.warning("MLflow at %s answers again: everything is sent", self._uri)
        self._has_warned, self.rejection = False, ""
        return self._journal.unwritten_count == 0

    def send_refused(self) -> bool:
        """Send the records again that this tracker refused, which may accept them now; whether it does."""
        records = self._journal.read_refused()
        own = [record for record in records if record.get("target") == self._delivery.target]
        if not own:
            return True
        self._refused.clear()
        self._journal.save_refused([record for record in records if record not in own])
        for position, refused in enumerate(own):
            try:
                self._send([{key: value for key, value in refused.items() if key not in ("target", "error")}])
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the tracker
                self._journal.save_refused([*self._journal.read_refused(), *own[position:]])
                self._warn(error)
                return False
        return not self.refused

    def _loop(self) -> None:
        pause = COLLECT_S
        while not self._is_stopping.is_set():
            self._has_new.wait()
            self._has_new.clear()
            self._is_stopping.wait(pause)
            self._is_delivered = self._try_flush()
            if self._is_delivered:
                pause = COLLECT_S
            else:
                pause = min(2 * pause, MAX_PAUSE_S)
                self._has_new.set()  # the rest has to be tried again
        self._is_delivered = self._try_flush()
        self._journal.unlock()

    def _try_flush(self) -> bool:
        """`flush`, with False for an error of any kind: the thread lives as long as its job."""
        try:
            return self.flush()
        except Exception as error:  # noqa: BLE001
            self._client.invalidate_cache()
            self._warn(error)
            return False

    def _acquire_journal(self) -> bool:
        """Become the journal's sender and read what was delivered before; False while another process is the sender."""
        if not self._journal.has_lock:
            if not self._journal.try_lock():
                return False
            earlier = self._journal.load_deliveries().get(self._delivery.target, Delivery())
            self._delivery.offsets.update(earlier.offsets)
            self._delivery.runs.update(earlier.runs)
        return True

    def _deliver(self, lane: str) -> None:
        while chunk := list(islice(self._journal.read_entries(self._delivery.offsets.get(lane, 0)), CHUNK_SIZE)):
            for batch in _group_batches([entry for entry in chunk if entry.record["lane"] == lane]):
                self._send([entry.record for entry in batch])
                self._save_offset(lane, batch[-1].end)
            self._save_offset(lane, chunk[-1].end)

    def _send(self, records: Sequence[Record]) -> None:
        try:
            if "file" in records[0] and not self._journal.get_file_folder(records[0]["file"]).exists():
                self._refetch_file(records[0])
            self._client.send(records, files=self._journal.files)
        except (RecordRefusedError, SpoolError) as error:
            if len(records) > 1:
                for record in records:
                    self._send([record])
                return
            if records[0]["do"] == "run" and not isinstance(error, SpoolError):
                raise RunRefusedError(str(error)) from error
            self._keep_refused(records[0], error)
            return
        for record in records:
            self._drop_replaced(record)
            if "file" in record and (not self._is_copy or record["file"] in self._refetched):
                self._journal.remove_file(record["file"])

    def _keep_refused(self, record: Record, error: Exception) -> None:
        """Keep a refused record and its file, and go on with the others."""
        reason = redact(str(error))
        self._journal.add_refused(record, target=self._delivery.target, reason=reason)
        if record["do"] not in MINOR_KINDS:
            self._refused.append({**record, "error": reason})
        kept = self._journal.spool / REFUSED
        if not isinstance(error, LostFileError):
            log.warning("MLflow refuses a record (%s), which is kept in %s: %s", record["do"], kept, reason)
        elif not self._has_warned_of_lost_files:
            message = (
                "what this job sent before (%s and more) is neither at a tracker that we know any more nor here: MLflow at %s "
                "gets what the job writes again; %s names the rest"
            )
            log.warning(message, record["name"], self._uri, kept)
            self._has_warned_of_lost_files = True

    def _drop_replaced(self, record: Record) -> None:
        """Forget the refused records that this one, which the tracker has accepted, replaces: a job wrote them again."""
        if record["lane"] != "files":
            return
        refused = self._journal.read_refused()
        target = self._delivery.target
        replaced = [one for one in refused if one.get("target") == target and _replaces(record, one)]
        if replaced:
            self._journal.save_refused([one for one in refused if one not in replaced])
            self._refused = [one for one in self._refused if not _replaces(record, one)]
        for name in [one["file"] for one in replaced if "file" in one and not self._is_copy]:
            with suppress(SpoolError):  # where the name was why it was refused
                self._journal.remove_file(name)

    def _refetch_file(self, record: Record) -> None:
        """Fetch a file from a tracker that it was delivered to, since the spool has deleted it then."""
        for target, delivery in self._journal.load_deliveries().items():
            if target != self._delivery.target and delivery.uri and record["run"] in delivery.runs:
                uri, run = restore_password(delivery.uri), delivery.runs[record["run"]]
                with suppress(MlflowException, OSError):  # without the file, the record is refused
                    fetch_files(record, into=self._journal.files, uri=uri, experiment=delivery.experiment, run=run)
                    self._refetched.add(record["file"])
                    return

    def _save_offset(self, lane: str, offset: int) -> None:
        if self._delivery.offsets.get(lane) != offset:
            self._delivery.offsets[lane] = offset
            self._journal.save_delivery(self._delivery)

    def _warn_rejection(self, error: Exception) -> None:
        """Warn of a tracker that refuses a run, and so everything that belongs to it; nothing counts as delivered."""
        reason = redact(str(error)).splitlines()[0][:300]
        if not self.rejection:
            message = "MLflow at %s refuses this run: its records and files are kept in %s (%s)"
            log.warning(message, self._uri, self._journal.spool, reason)
        self._has_warned, self.rejection = True, reason
        self._client.invalidate_cache()

    def _warn_disk(self, error: OSError) -> None:
        if not self._has_warned:
            log.warning("the journal in %s cannot be read or written now: %s", self._journal.spool, error.strerror)
        self._has_warned = True

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            reason = redact((str(error) or type(error).__name__).splitlines()[0][:300])
            problem = f"refuses our login ({LOGIN_HINT})" if is_login_refused(error) else "cannot be reached"
            message = "MLflow at %s %s: the run goes on; its records are kept in %s and sent when it answers (%s)"
            log.warning(message, self._uri, problem, self._journal.spool, reason)
        self._has_warned = True


def _replaces(record: Record, other: Record) -> bool:
    """Whether two records carry the same file or model of the same run."""
    return all(record.get(key) == other.get(key) for key in ("do", "lane", "run", "folder", "name", "model"))


def _group_batches(entries: Sequence[JournalEntry]) -> Iterator[list[JournalEntry]]:
    """Group consecutive records of one run that one request can carry; every other record is a batch of its own."""
    batch: list[JournalEntry] = []
    for entry in entries:
        is_mergeable = batch and entry.record["do"] in MERGEABLE_KINDS and batch[-1].record["do"] in MERGEABLE_KINDS
        if is_mergeable and entry.record["run"] == batch[-1].record["run"]:
            batch.append(entry)
            continue
        if batch:
            yield batch
        batch = [entry]
    if batch:
        yield batch
