"""Judging an encoder: embeddings, linear probe, subject-exclusive cross-validation, F1, diagnostics, figures.

Here is what numpy alone does. `probe` and `diagnostics` (torch), `embed` (Ray Data) and `figures` (matplotlib)
are imported by their module names, so that comparing runs takes no second of loading.
"""

from facscale.evaluate.bootstrap import Difference, Interval, difference, interval
from facscale.evaluate.f1 import Counts, count
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.relations import adjacency, adjacency_distance, correlation, dependency_f1
from facscale.evaluate.scores import Row
from facscale.evaluate.significance import Comparison, compared
from facscale.evaluate.subjects import frames_of, per_subject, positives
from facscale.evaluate.thresholds import Operating, Thresholds, operating
from facscale.evaluate.ttests import CorrectedT, TTest, corrected_t, paired_t

__all__ = [
    "Comparison",
    "CorrectedT",
    "Counts",
    "Difference",
    "Interval",
    "Operating",
    "Predictions",
    "Row",
    "TTest",
    "Thresholds",
    "adjacency",
    "adjacency_distance",
    "compared",
    "corrected_t",
    "correlation",
    "count",
    "dependency_f1",
    "difference",
    "frames_of",
    "interval",
    "operating",
    "paired_t",
    "per_subject",
    "positives",
]
