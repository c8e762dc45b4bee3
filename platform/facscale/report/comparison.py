"""Tables of methods beside a first one: how much better they are, and what F1 they reach at other thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facscale.evaluate.f1 import nanmean
from facscale.evaluate.significance import Comparison, MethodComparison
from facscale.evaluate.thresholds import ThresholdAnalysis
from facscale.evaluate.ttests import TTest
from facscale.report.table import Cell, Column, ReportTable

# The pairs are pairs of AUs: the distance of their adjacency, and dependency F1; short, for a narrow terminal.
COMPARISON_COLUMNS = (
    Column("method", align="left", can_wrap=False),
    Column("F1 x 100", number_format=".1f"),
    Column("difference", can_wrap=False),
    Column("pairs: L2", number_format=".3f"),
    Column("pairs: F1 x 100", number_format=".1f"),
    Column("error x 100", number_format="+.2f"),
    Column("t, frames", number_format=".2f"),
    Column("p, frames"),
    Column("t, people", number_format=".2f"),
    Column("p, people"),
)
COMPARISON_VALUES = ("f1", "f1_difference", "f1_low", "f1_high", "distance", "dependency", *TTest._fields)
SMALLEST_P = 1e-300  # a smaller one is shown as "< 1e-300"
THRESHOLD_COLUMNS = {  # attribute of `ThresholdAnalysis`: heading
    "fixed": "F1 x 100 at {threshold:g}",
    "cross_fitted": "threshold from other people",
    "oracle": "cheating: from the test fold",
    "auc": "ROC AUC x 100",
    "average_precision": "average precision x 100",
}


def build_comparison_table(comparison: Comparison, *, title: str = "") -> ReportTable:
    """Each method, its difference from the first one and the tests; the verdicts are the table's notes."""
    caption = (
        f"t < 0: errs less than {comparison.rows[0].name}; frames of a video are not independent: believe p, people"
    )
    rows = [[row.name, *_comparison_cells(row)] for row in comparison.rows]
    return ReportTable(
        COMPARISON_COLUMNS, rows, title=title, caption=caption, notes=comparison.verdicts, should_align_markdown=False
    )


def build_comparison_values(comparison: Comparison) -> ReportTable:
    """The same for a CSV file: one row per method, unrounded, F1 in [0, 1], and the verdict."""
    rows = []
    for row in comparison.rows:
        difference = row.difference.f1 if row.difference else [None] * 3
        verdict = row.difference.verdict if row.difference else ""
        test = row.test or [None] * len(TTest._fields)
        rows.append([row.name, row.f1, *difference, row.distance, row.dependency, *test, verdict])
    return ReportTable([Column(name) for name in ("method", *COMPARISON_VALUES, "verdict")], rows)


def build_threshold_table(analyses: Sequence[ThresholdAnalysis], *, title: str = "") -> ReportTable:
    """Means over AUs, x 100, one row per method."""
    headings = [heading.format(threshold=analyses[0].threshold) for heading in THRESHOLD_COLUMNS.values()]
    rows: list[list[Cell]] = [
        [analysis.name, *(100 * float(nanmean(analysis.average_folds(name))) for name in THRESHOLD_COLUMNS)]
        for analysis in analyses
    ]
    return ReportTable(
        [
            Column("method", align="left", can_wrap=False),
            *(Column(heading, number_format=".1f") for heading in headings),
        ],
        rows,
        title=title,
        caption="cheating: the threshold has seen the labels that it is tested on; a bound, no result",
        should_align_markdown=False,
    )


def _comparison_cells(row: MethodComparison) -> list[Cell]:
    difference = row.difference.f1.format(sign="+") if row.difference else None
    scores = [100 * row.f1, difference, row.distance, 100 * row.dependency]
    if row.test is None:
        return [*scores, *[None] * 5]
    test = row.test
    return [
        *scores,
        100 * test.difference,
        test.frames_t,
        _format_p(test.frames_p),
        test.subjects_t,
        _format_p(test.subjects_p),
    ]


def _format_p(p: float) -> str | None:
    if np.isnan(p):
        return None
    return "< 1e-300" if p < SMALLEST_P else f"{p:.2g}"
