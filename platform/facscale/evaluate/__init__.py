"""Judging an encoder: embeddings, linear probe, subject-exclusive cross-validation, F1, diagnostics, figures.

`embed` (Ray Data) and `figures` (matplotlib) are imported by their module names, so that this room stays light.
"""

from facscale.evaluate.crossval import cross_validate, frames_of, positives
from facscale.evaluate.diagnostics import diagnose
from facscale.evaluate.f1 import Counts, count
from facscale.evaluate.probe import fit_probe, label_weights, predict
from facscale.evaluate.table import Row, Table

__all__ = [
    "Counts",
    "Row",
    "Table",
    "count",
    "cross_validate",
    "diagnose",
    "fit_probe",
    "frames_of",
    "label_weights",
    "positives",
    "predict",
]
