"""Brings the journal to MLflow in the background, each record once.

A batch is sent, then its end is noted in `sent.json`. Where the note is missing, because the process died or an answer
was lost, the batch is sent again without harm: runs are found by their tag, steps that the tracker has are read from
it and left out, everything else replaces itself.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from mlflow.exceptions import MlflowException

from facscale.redact import redacted
from facscale.track.client import Client, GoneError, RefusedError
from facscale.track.fetch import fetch
from facscale.track.journal import LANES, Entry, Journal, Sent, SpoolError
from facscale.track.login import CURE, is_refused, with_password

COLLECT = 1.0  # seconds in which records gather before they are sent together
LONGEST_PAUSE = 15.0  # seconds between attempts while the tracker does not answer
CHUNK = 2000  # records read at once
MERGED = ("metrics", "params", "tags")  # kinds that one request can carry together
log = logging.getLogger("facscale.track")


class Sender:
    """One thread that delivers a journal to one experiment."""

    def __init__(self, journal: Journal, *, uri: str, experiment: str, copy: bool = False) -> None:
        """`copy`: to a tracker that is not the job's own; what is delivered there stays in the journal."""
        self._journal, self._copy = journal, copy
        whole, self._experiment = uri.rstrip("/"), experiment
        self._uri = redacted(whole)  # for everything that is written
        self._sent = Sent(f"{self._uri} {experiment}", uri=self._uri, experiment=experiment)
        self._client = Client(whole, experiment=experiment, runs=self._sent.runs)
        self._thread = threading.Thread(target=self._loop, name="facscale-track", daemon=True)
        self._new, self._stopping, self._delivered = threading.Event(), threading.Event(), False
        self._warned = False
        self._brought: set[str] = set()  # files that were fetched from another tracker

    @classmethod
    def resumed(cls, journal: Journal, *, uri: str | None = None) -> Sender:
        """For the tracker that the journal's newest run names. Raises SpoolError for a journal without runs."""
        runs = [entry.record for entry in journal.entries(0) if entry.record["do"] == "run"]
        if not runs:
            raise SpoolError(f"{journal.spool} holds no records of a run; is it the spool of a job?")
        own, experiment = runs[-1]["uri"], runs[-1]["experiment"]
        copy = uri is not None and redacted(uri.rstrip("/")) != own
        return cls(journal, uri=uri or with_password(own), experiment=experiment, copy=copy)

    @property
    def target(self) -> dict[str, str]:
        """Where the records go; every run's record says it, for those who send them later."""
        return {"uri": self._uri, "experiment": self._experiment}

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """There are new records."""
        self._new.set()

    def stop(self, *, wait: float) -> bool:
        """Deliver the rest, for at most `wait` seconds and without waiting for a tracker that does not answer."""
        self._stopping.set()
        self._new.set()
        self._thread.join(wait)
        return self._delivered and not self._thread.is_alive()

    def url(self, key: str) -> str:
        """Where a run can be seen."""
        return self._client.url(key)

    @property
    def table_url(self) -> str:
        """Where everything that was judged in the experiment can be seen side by side."""
        return self._client.table_url

    def drain(self) -> bool:
        """Deliver everything that is in the journal now; False when that is not possible (now)."""
        if not self._begun():
            return False
        self._journal.sync()
        for lane in LANES:
            try:
                self._deliver(lane)
            except GoneError as error:
                log.warning("%s: sending everything again, to a new run", error)
                self._sent.offsets.clear()
                self._sent.runs.clear()
                return self.drain()
            except Exception as error:  # noqa: BLE001  # whatever ails the tracker, training goes on
                self._client.doubt()
                self._warn(error)
                return False
        if self._warned:
            log.warning("MLflow at %s answers again: everything is sent", self._uri)
        self._warned = False
        return True

    def _loop(self) -> None:
        pause = COLLECT
        while not self._stopping.is_set():
            self._new.wait()
            self._new.clear()
            self._stopping.wait(pause)
            self._delivered = self.drain()
            if self._delivered:
                pause = COLLECT
            else:
                pause = min(2 * pause, LONGEST_PAUSE)
                self._new.set()  # what is left has to be tried again
        self._delivered = self.drain()
        self._journal.unlock()

    def _begun(self) -> bool:
        """Be the one who sends, and know what was sent before; False while another process is."""
        if not self._journal.locked:
            if not self._journal.lock():
                return False
            noted = self._journal.sent().get(self._sent.target, Sent())
            self._sent.offsets.update(noted.offsets)
            self._sent.runs.update(noted.runs)
        return True

    def _deliver(self, lane: str) -> None:
        while chunk := list(islice(self._journal.entries(self._sent.offsets.get(lane, 0)), CHUNK)):
            for batch in _batches([entry for entry in chunk if entry.record["lane"] == lane]):
                self._send([entry.record for entry in batch])
                self._acknowledge(lane, batch[-1].end)
            self._acknowledge(lane, chunk[-1].end)

    def _send(self, records: Sequence[dict[str, Any]]) -> None:
        try:
            if "file" in records[0] and not self._journal.held(records[0]["file"]).exists():
                self._bring_back(records[0])
            self._client.send(records, files=self._journal.files)
        except (RefusedError, SpoolError) as error:
            if len(records) > 1:
                for record in records:
                    self._send([record])
                return
            with (self._journal.spool / "refused.jsonl").open("a") as file:
                file.write(redacted(json.dumps({**records[0], "error": str(error)})) + os.linesep)
            log.warning("MLflow refuses a record, which goes to %s: %s", file.name, redacted(str(error)))
            if isinstance(error, SpoolError):
                return  # it is not ours to delete
        for record in records:
            if "file" in record and (not self._copy or record["file"] in self._brought):
                self._journal.drop(record["file"])

    def _bring_back(self, record: dict[str, Any]) -> None:
        """Where another tracker was given a file, the spool has it no more: fetch it from there."""
        for target, sent in self._journal.sent().items():
            if target != self._sent.target and sent.uri and record["run"] in sent.runs:
                place = {"uri": with_password(sent.uri), "experiment": sent.experiment, "run": sent.runs[record["run"]]}
                with suppress(MlflowException, OSError):  # then it is refused, as what nobody has
                    fetch(record, into=self._journal.files, **place)
                    self._brought.add(record["file"])
                    return

    def _acknowledge(self, lane: str, offset: int) -> None:
        if self._sent.offsets.get(lane) != offset:
            self._sent.offsets[lane] = offset
            self._journal.acknowledge(self._sent)

    def _warn(self, error: Exception) -> None:
        reason = redacted((str(error) or type(error).__name__).splitlines()[0][:300])
        if not self._warned:
            what = f"refuses our login ({CURE})" if is_refused(error) else "cannot be reached"
            message = "MLflow at %s %s: the run goes on; its records are kept in %s and sent when it answers (%s)"
            log.warning(message, self._uri, what, self._journal.spool, reason)
        self._warned = True


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Consecutive records of one run that one request can carry, together; all others alone."""
    batch: list[Entry] = []
    for entry in entries:
        fits = batch and entry.record["do"] in MERGED and batch[-1].record["do"] in MERGED
        if fits and entry.record["run"] == batch[-1].record["run"]:
            batch.append(entry)
            continue
        if batch:
            yield batch
        batch = [entry]
    if batch:
        yield batch
