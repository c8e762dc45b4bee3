"""`facscale sync`: sends the journals of runs that MLflow has not received."""

from __future__ import annotations

from pathlib import Path

import click

from facscale.track.journal import SPOOL_ROOT, SpoolError
from facscale.track.sync import RETENTION_DAYS, list_spools, remove_old_spools, sync_spools

MESSAGES = {
    "sent": "{records:,} records sent; everything is at {uri}",
    "up_to_date": "everything is at {uri}",
    "pending": "{records:,} records are left: {uri} does not answer or refuses them, or another process is sending; nothing is lost",
    "empty": "no records of a run",
}


def sync_journals(spool: Path | None, *, uri: str | None) -> int:
    """Send one journal or all and print a line for each; returns the exit status.

    Raises SpoolError for a folder that is no journal.
    """
    if spool is not None and not (spool / "journal.jsonl").exists():
        raise SpoolError(f"{spool} holds no journal.jsonl; give the folder that the job's message named")
    spools = [spool] if spool else list_spools(SPOOL_ROOT)
    states = []
    for number, result in enumerate(sync_spools(spools, uri=uri), start=1):
        states.append(result.state)
        if spool or result.state in {"sent", "pending"}:
            message = MESSAGES[result.state].format(**vars(result))
            click.echo(f"[{number}/{len(spools)}] {result.spool.name}: {message}")
    if spool is None:
        removed = remove_old_spools(spools)
        old = f", {len(removed)} of them older than {RETENTION_DAYS} days and removed" if removed else ""
        click.echo(f"{SPOOL_ROOT}: {len(spools)} journals, {states.count('up_to_date')} of them delivered before{old}")
    return 1 if "pending" in states else 0
