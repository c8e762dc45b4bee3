"""Evaluation of encoders: linear probes, F1, out-of-fold predictions, statistics, and what a representation holds.

The names below need numpy and scipy alone. `probe`, `expression` and `diagnostics` (torch) are imported by their module
names, so that comparing runs does not load torch.
"""

from facscale.evaluate.bootstrap import F1Difference, Interval, bootstrap_difference
from facscale.evaluate.f1 import ConfusionCounts, count_confusions
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.relations import adjacency_distance, correlate_aus, correlate_columns, dependency_f1
from facscale.evaluate.scores import MethodScores
from facscale.evaluate.significance import Comparison, compare_methods
from facscale.evaluate.subjects import count_positives, find_frames, score_subjects
from facscale.evaluate.thresholds import ThresholdAnalysis, analyze_thresholds
from facscale.evaluate.ttests import TTest, paired_t_test

__all__ = [
    "Comparison",
    "ConfusionCounts",
    "F1Difference",
    "Interval",
    "MethodScores",
    "Predictions",
    "TTest",
    "ThresholdAnalysis",
    "adjacency_distance",
    "analyze_thresholds",
    "bootstrap_difference",
    "compare_methods",
    "correlate_aus",
    "correlate_columns",
    "count_confusions",
    "count_positives",
    "dependency_f1",
    "find_frames",
    "paired_t_test",
    "score_subjects",
]
