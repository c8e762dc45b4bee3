"""Jobs that tests run in their own process, prepared as `facscale run` does it."""

from __future__ import annotations

from facscale.job.prepared import PreparedJob, open_job, try_job
from facscale.spec import Document
from facscale.sweep import try_sweep


def prepare_job(document: Document, *, name: str) -> PreparedJob:
    """Read the spec, open its data and try its methods, and its search if it has one."""
    prepared = open_job(document, name=name)
    attempt = try_sweep if prepared.main.job.sweep else try_job
    attempt(prepared)
    return prepared
