"""Judging an encoder: embeddings, linear probe, subject-exclusive cross-validation, F1, diagnostics, figures.

`embed` (Ray Data) and `figures` (matplotlib) are imported by their module names, so that this room stays light.
"""

from facscale.evaluate.crossval import cross_validate, frames_of, positives
from facscale.evaluate.diagnostics import diagnose
from facscale.evaluate.f1 import Counts, count
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.probe import fit_probe, label_weights, predict
from facscale.evaluate.relations import adjacency, adjacency_distance, correlation, dependency_f1
from facscale.evaluate.significance import Comparison, TTest, compared, paired_t
from facscale.evaluate.table import Row, Table

__all__ = [
    "Comparison",
    "Counts",
    "Predictions",
    "Row",
    "TTest",
    "Table",
    "adjacency",
    "adjacency_distance",
    "compared",
    "correlation",
    "count",
    "cross_validate",
    "dependency_f1",
    "diagnose",
    "fit_probe",
    "frames_of",
    "label_weights",
    "paired_t",
    "positives",
    "predict",
]
