"""`facscale sync`."""

from __future__ import annotations

from pathlib import Path

import click

from facscale.track.journal import SPOOLS, SpoolError
from facscale.track.sync import KEPT_DAYS, remove_old, spools, sync

SAID = {
    "sent": "{records:,} records sent; everything is at {uri}",
    "known": "everything is at {uri}",
    "left": "{records:,} records are left: {uri} does not answer, or another process is sending; nothing is lost",
    "empty": "no records of a run",
}


def sync_journals(spool: Path | None, *, uri: str | None) -> int:
    """Send one journal or all, a line each; the exit status. Raises SpoolError for a folder that is no journal."""
    if spool is not None and not (spool / "journal.jsonl").exists():
        raise SpoolError(f"{spool} holds no journal.jsonl; name the folder that the job's message named")
    found = [spool] if spool else spools(SPOOLS)
    left = known = 0
    for number, one in enumerate(sync(found, uri=uri), start=1):
        left += one.state == "left"
        known += one.state == "known"
        if spool or one.state in {"sent", "left"}:
            click.echo(f"[{number}/{len(found)}] {one.spool.name}: {SAID[one.state].format(**vars(one))}")
    if spool is None:
        removed = remove_old(found)
        old = f", {len(removed)} of them older than {KEPT_DAYS} days and removed" if removed else ""
        click.echo(f"{SPOOLS}: {len(found)} journals, {known} of them delivered before{old}")
    return 1 if left else 0
