"""All journals that jobs of this user left: send what is unsent, and remove what is sent and old."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facscale.redact import redacted
from facscale.track.journal import Journal
from facscale.track.tracker import flush

KEPT_DAYS = 60
State = Literal["sent", "known", "left", "empty"]


@dataclass(frozen=True)
class Synced:
    """One journal: `sent` now, `known` to the tracker before, still `left` here, or `empty` of runs."""

    spool: Path
    state: State
    uri: str = ""  # the tracker
    records: int = 0  # that were to be sent


def spools(folder: Path) -> list[Path]:
    """The journals in a folder, the oldest first."""
    found = [path.parent for path in folder.glob("*/journal.jsonl")]
    return sorted(found, key=lambda spool: (spool / "journal.jsonl").stat().st_mtime)


def sync(found: Sequence[Path], *, uri: str | None = None) -> Iterator[Synced]:
    """Send each journal to its job's tracker, or a copy of all to `uri`. A tracker that is silent is asked once."""
    silent = set[str]()
    for spool in found:
        plan = planned(spool, uri=uri)
        if plan.state == "left" and plan.uri not in silent:
            delivered = flush(spool, uri=uri)
            plan = Synced(spool, "sent" if delivered else "left", plan.uri, plan.records)
            if not delivered and _is_free(spool):  # else it is not the tracker, but another process that sends
                silent.add(plan.uri)
        yield plan


def planned(spool: Path, *, uri: str | None = None) -> Synced:
    """What there is to do: nothing where a tracker, this or another one, knows everything; else `left` with the number of records that the tracker has not acknowledged."""
    journal = Journal(spool)
    runs = [entry.record for entry in journal.entries(0) if entry.record["do"] == "run"]
    if not runs:
        return Synced(spool, "empty")
    target = redacted((uri or runs[-1]["uri"]).rstrip("/"))
    notes = journal.sent()
    sent = notes.get(f"{target} {runs[-1]['experiment']}")
    whole = [note.uri or note.target.split(" ")[0] for note in notes.values() if journal.covers(note)]
    if uri is None and whole:
        return Synced(spool, "known", target if target in whole else whole[0])
    start = min((sent.offsets.get(lane, 0) for lane in ("records", "files")), default=0) if sent else 0
    left = sum(1 for _ in journal.entries(start))
    return Synced(spool, "left" if left else "known", target, left)


def remove_old(found: Sequence[Path], *, days: float = KEPT_DAYS) -> list[Path]:
    """Delete journals that some tracker has whole and that nobody has touched for `days`; returns them."""
    removed = []
    for spool in found:
        journal, age = Journal(spool), time.time() - (spool / "journal.jsonl").stat().st_mtime
        whole = any(journal.covers(sent) for sent in journal.sent().values())
        if age > days * 24 * 3600 and whole and journal.lock():
            shutil.rmtree(spool)
            journal.unlock()
            removed.append(spool)
    return removed


def _is_free(spool: Path) -> bool:
    journal = Journal(spool)
    free = journal.lock()
    journal.unlock()
    return free
