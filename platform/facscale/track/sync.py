"""Sends all journals that this user's jobs have left, and removes those that are delivered and old."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facscale.redact import redact
from facscale.track.journal import LANES, Journal
from facscale.track.tracker import flush

RETENTION_DAYS = 60
State = Literal["sent", "up_to_date", "pending", "empty"]


@dataclass(frozen=True)
class SyncResult:
    """One journal: `sent` just now, `up_to_date` at the tracker before, still `pending` here, or `empty` of runs."""

    spool: Path
    state: State
    uri: str = ""  # the tracker
    records: int = 0  # that were to be sent


def list_spools(folder: Path) -> list[Path]:
    """Return the spools in a folder, the oldest first."""
    spools = [path.parent for path in folder.glob("*/journal.jsonl")]
    return sorted(spools, key=lambda spool: (spool / "journal.jsonl").stat().st_mtime)


def sync_spools(spools: Sequence[Path], *, uri: str | None = None) -> Iterator[SyncResult]:
    """Send each journal to its job's tracker, or a copy of all to `uri`; a silent tracker is tried only once."""
    silent = set[str]()
    for spool in spools:
        result = plan_sync(spool, uri=uri)
        if result.state == "pending" and result.uri not in silent:
            is_sent = flush(spool, uri=uri)
            result = SyncResult(spool, "sent" if is_sent else "pending", result.uri, result.records)
            if not is_sent and _is_free(spool):  # otherwise another process is sending, and the tracker may answer
                silent.add(result.uri)
        yield result


def plan_sync(spool: Path, *, uri: str | None = None) -> SyncResult:
    """Find out what there is to send, without asking a tracker.

    `up_to_date` where the tracker has acknowledged everything; without `uri`, any tracker will do. Otherwise `pending`,
    with the number of records that the tracker has not acknowledged.
    """
    journal = Journal(spool)
    runs = [entry.record for entry in journal.read_entries(0) if entry.record["do"] == "run"]
    if not runs:
        return SyncResult(spool, "empty")
    target = redact((uri or runs[-1]["uri"]).rstrip("/"))
    deliveries = journal.load_deliveries()
    complete = [item.uri or item.target.split(" ")[0] for item in deliveries.values() if journal.is_delivered(item)]
    key = f"{target} {runs[-1]['experiment']}"
    refused = journal.count_refused(key)
    if uri is None and complete and not refused:
        return SyncResult(spool, "up_to_date", target if target in complete else complete[0])
    delivery = deliveries.get(key)
    start = min(delivery.offsets.get(lane, 0) for lane in LANES) if delivery else 0
    count = sum(1 for _ in journal.read_entries(start)) + refused
    return SyncResult(spool, "pending" if count else "up_to_date", target, count)


def remove_old_spools(spools: Sequence[Path], *, days: float = RETENTION_DAYS) -> list[Path]:
    """Delete spools that some tracker has completely and that are unchanged for `days`; returns them."""
    removed = []
    for spool in spools:
        journal, age_s = Journal(spool), time.time() - (spool / "journal.jsonl").stat().st_mtime
        is_complete = any(
            journal.is_delivered(delivery) and not journal.count_refused(delivery.target)
            for delivery in journal.load_deliveries().values()
        )
        if age_s > days * 24 * 3600 and is_complete and journal.try_lock():
            shutil.rmtree(spool)
            journal.unlock()
            removed.append(spool)
    return removed


def _is_free(spool: Path) -> bool:
    journal = Journal(spool)
    is_free = journal.try_lock()
    journal.unlock()
    return is_free
