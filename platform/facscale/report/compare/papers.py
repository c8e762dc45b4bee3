"""What papers print beside what we measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facscale.evaluate import Row
from facscale.evaluate.f1 import mean
from facscale.report.compare.entries import CompareError, Entry
from facscale.report.published import Line, published
from facscale.report.table import Table
from facscale.track import Tracker

PATIENCE_S = 600


def printed(data: str) -> list[Line]:
    """Every published row of F1 by AU on a data set."""
    return [line for line in published(data) if line.aus and line.metric == "F1"]


def beside(entry: Entry, *, data: str) -> list[Row]:
    """For a row of ours: what each paper prints for it, and below that ours minus theirs."""
    lines = published(data, method=entry.label) or published(data, method=entry.method)
    rows = [line.row() for line in lines if line.aus and line.metric == "F1"]
    return [row for theirs in rows for row in (theirs, minus(entry.row, theirs))]


def minus(ours: Row, theirs: Row) -> Row:
    """F1 of ours minus theirs, over the AUs that both have; `mean` is the mean of these differences."""
    both = tuple(au for au in ours.aus if au in theirs.aus)
    gap = [ours.f1[ours.aus.index(au)] - theirs.f1[theirs.aus.index(au)] for au in both]
    return Row(f"{ours.name} minus it", both, np.array([gap]), np.full(len(both), np.nan), ("difference",))


def log_papers(uri: str, *, data: str, experiment: str) -> int:
    """A run for each published row, in an experiment of ours: how many. Sent again, they are the same runs."""
    lines = printed(data)
    if not lines:
        raise CompareError(f"no paper prints F1 by AU on {data}; `facscale published` lists what they print")
    with tempfile.TemporaryDirectory() as spool:
        about = {"source": "paper", "row": "papers"}
        tracker = Tracker(
            uri, experiment, key=f"papers/{data}", name=f"papers on {data}", spool=Path(spool), tags=about
        )
        for line in lines:
            tags = {
                "source": "paper",
                "row": line.method,
                "method": line.method,
                "paper": line.paper,
                "table": line.table,
            }
            run = tracker.child(f"papers/{data}/{line.file}/{line.method}", line.name, tags)
            row = line.row()
            values = {
                f"f1/AU{au}": float(value) for au, value in zip(row.aus, row.f1, strict=True) if not np.isnan(value)
            }
            run.metrics({**values, "f1/mean": float(mean(row.f1))})
            run.params({"printed_mean": line.printed or "none", "source": row.source, "kind": line.kind})
            run.close()
        if not tracker.close(wait=PATIENCE_S):
            raise CompareError(f"MLflow at {uri} does not answer; nothing is logged")
    return len(lines)


def board(found: Sequence[Entry], *, data: str, papers: bool) -> Table:
    """All rows, the best first, the papers' below them."""
    ours = sorted((one.row for one in found), key=lambda row: -row.mean)
    theirs = [line.row() for line in printed(data)] if papers else []
    return Table((*ours, *sorted(theirs, key=lambda row: -row.mean)))
