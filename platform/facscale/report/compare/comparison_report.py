"""Evaluated rows against the first of them: F1 by AU, papers, verdicts, thresholds and subjects, for a terminal and as a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from facscale.evaluate import (
    Comparison,
    Predictions,
    ThresholdAnalysis,
    analyze_thresholds,
    compare_methods,
    score_subjects,
)
from facscale.evaluate.predictions import align_predictions
from facscale.report.compare.entries import ResultEntry
from facscale.report.compare.papers import score_papers
from facscale.report.comparison import build_comparison_table, build_threshold_table
from facscale.report.f1_table import F1Table
from facscale.report.figures import plot_f1_bars
from facscale.report.pages import encode_png, render_page
from facscale.report.strips import plot_subject_strips

THRESHOLD = 0.5
MAX_DRAWN_ROWS = 12  # the bars of more could not be told apart
MAX_LISTED_VERDICTS = 12  # more are folded away
PredictionLoader = Callable[[ResultEntry], Sequence[Predictions]]  # loads the stored predictions of each seed


@dataclass(frozen=True)
class ComparisonReport:
    """Everything that is shown of some rows on one data set."""

    data: str
    f1: F1Table
    comparison: Comparison | None = None  # None for a single row, and where no predictions are stored
    thresholds: Sequence[ThresholdAnalysis] | None = None
    subjects: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # {row: {person: F1 in [0, 1]}}, first seeds

    def to_html(self) -> str:
        """One HTML file with its figures in it."""
        rows, title = self.f1.rows, f"F1 on {self.data}"
        return render_page(
            "comparison.html",
            title=f"{len(rows)} rows on {self.data}",
            f1=self.f1.build_table(title=""),
            bars=encode_png(plot_f1_bars(F1Table(rows[:MAX_DRAWN_ROWS]), title=title)),
            drawn=MAX_DRAWN_ROWS,
            undrawn=len(rows) - MAX_DRAWN_ROWS,
            baseline=self.comparison.rows[0].name if self.comparison else "",
            comparison=build_comparison_table(self.comparison) if self.comparison else None,
            listed=MAX_LISTED_VERDICTS,
            subjects=encode_png(plot_subject_strips(dict(islice(self.subjects.items(), MAX_DRAWN_ROWS))))
            if self.subjects
            else "",
            undrawn_subjects=len(self.subjects) - MAX_DRAWN_ROWS,
            thresholds=build_threshold_table(self.thresholds) if self.thresholds else None,
        )


def build_report(
    entries: Sequence[ResultEntry], *, data: str, load_predictions: PredictionLoader, papers: bool
) -> ComparisonReport:
    """Compare entries with the first one; with `papers`, published rows stand below each of them.

    Raises ValueError where the AUs or labels of their predictions differ.
    """
    rows = []
    for entry in entries:
        rows += [entry.scores, *(score_papers(entry, data=data) if papers else [])]
    f1 = F1Table(tuple(rows))
    stored = [
        [replace(seed, name=entry.name) for seed in load_predictions(entry)]  # rows of several jobs may share a name
        for entry in entries
    ]
    stored = [seeds for seeds in stored if seeds]
    if not stored:
        return ComparisonReport(data, f1)
    aligned = iter(align_predictions([seed for seeds in stored for seed in seeds]))
    methods = [[next(aligned) for _ in seeds] for seeds in stored]
    return ComparisonReport(
        data,
        f1,
        comparison=compare_methods(methods, threshold=THRESHOLD) if len(methods) > 1 else None,
        thresholds=[analyze_thresholds(seeds, threshold=THRESHOLD) for seeds in methods],
        subjects={seeds[0].name: score_subjects(seeds[0], threshold=THRESHOLD) for seeds in methods},
    )
