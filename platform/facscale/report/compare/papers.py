"""What papers print, beside what was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facscale.evaluate import MethodScores
from facscale.evaluate.f1 import nanmean
from facscale.report.compare.entries import CompareError, ResultEntry
from facscale.report.f1_table import DIFFERENCE, F1Table
from facscale.report.published import PublishedResult, find_results
from facscale.track import Tracker

UPLOAD_TIMEOUT_S = 600


def find_published_f1(data: str) -> list[PublishedResult]:
    """Every published row of F1 by AU on a data set."""
    return [result for result in find_results(data) if result.has_f1_by_au]


def score_papers(entry: ResultEntry, *, data: str) -> list[MethodScores]:
    """What each paper prints for the entry's row, or else for its method, each followed by ours minus theirs."""
    results = find_results(data, method=entry.label) or find_results(data, method=entry.method)
    papers = [result.to_scores() for result in results if result.has_f1_by_au]
    return [scores for paper in papers for scores in (paper, subtract_scores(entry.scores, paper))]


def subtract_scores(ours: MethodScores, theirs: MethodScores) -> MethodScores:
    """F1 of ours minus theirs, over the AUs that both have; `mean` is the mean of these differences."""
    aus = tuple(au for au in ours.aus if au in theirs.aus)
    difference = [ours.f1[ours.aus.index(au)] - theirs.f1[theirs.aus.index(au)] for au in aus]
    return MethodScores(f"{ours.name} minus it", aus, np.array([difference]), np.full(len(aus), np.nan), DIFFERENCE)


def log_papers(uri: str, *, data: str, experiment: str) -> int:
    """Log each published row on a data set as a run of an experiment, and return how many there are.

    A second call updates the same runs. Raises CompareError where no paper has any, and where MLflow does not answer.
    """
    results = find_published_f1(data)
    if not results:
        raise CompareError(f"no paper prints F1 by AU on {data}; `facscale published` lists what they print")
    with tempfile.TemporaryDirectory() as spool:
        tracker = Tracker(
            uri,
            experiment,
            key=f"papers/{data}",
            name=f"papers on {data}",
            spool=Path(spool),
            tags={"source": "paper", "row": "papers"},
        )
        for result in results:
            tags = {
                "source": "paper",
                "row": result.method,
                "method": result.method,
                "paper": result.paper,
                "table": result.table,
            }
            run = tracker.start_child(f"papers/{data}/{result.file}/{result.method}", result.name, tags)
            scores = result.to_scores()
            f1 = {f"f1/AU{au}": float(f1) for au, f1 in zip(scores.aus, scores.f1, strict=True) if not np.isnan(f1)}
            run.log_metrics({**f1, "f1/mean": float(nanmean(scores.f1))})
            run.log_params({"printed_mean": result.printed or "none", "source": scores.source, "kind": result.kind})
            run.close()
        if not tracker.close(wait=UPLOAD_TIMEOUT_S):
            raise CompareError(f"MLflow at {uri} does not answer; nothing is logged")
    return len(results)


def build_leaderboard(entries: Sequence[ResultEntry], *, data: str, papers: bool) -> F1Table:
    """All entries, the best first; with `papers`, published rows below them."""
    ours = sorted((entry.scores for entry in entries), key=lambda scores: -scores.mean)
    theirs = [result.to_scores() for result in find_published_f1(data)] if papers else []
    return F1Table((*ours, *sorted(theirs, key=lambda scores: -scores.mean)))
