"""Whether predicted AUs occur together as the labelled ones do (AUNet, section V.E, Table X and Figure 8).

AUNet gives two measures without their formulas, and only as differences between two methods: the L2 distance between
adjacency matrices, for which it cites Niu et al., "Multi-label co-regularization for semi-supervised facial action unit
recognition" (NeurIPS 2019), and the dependency F1 of Tirupattur et al., "Modeling multi-label action dependencies for
temporal action localization" (CVPR 2021). Both are defined exactly here, over the frames of all folds together.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from facscale.evaluate.f1 import count_confusions, nanmean
from facscale.evaluate.predictions import Predictions


class Adjacency(NamedTuple):
    """Correlations of AUs over the same frames, each [n, n] in [-1, 1]; nan where an AU never varies."""

    predicted: np.ndarray
    labelled: np.ndarray


def correlate_columns(values: np.ndarray, *, mask: np.ndarray | None = None) -> np.ndarray:
    """Pearson's coefficient of every pair of the columns of `values` [N, n], as [n, n].

    mask [N, n]: which values are known; a pair is compared over the rows in which both are. nan where one of the two
    never varies there.
    """
    mask = np.ones(values.shape, bool) if mask is None else mask
    matrix = np.full((values.shape[1], values.shape[1]), np.nan)
    for i, j in combinations_with_replacement(range(values.shape[1]), 2):
        rows = mask[:, i] & mask[:, j]
        matrix[i, j] = matrix[j, i] = _correlate(values[rows, i], values[rows, j])
    return matrix


def correlate_aus(predictions: Predictions, *, threshold: float) -> Adjacency:
    """The matrices of Figure 8: correlations of the decisions (predicted from `threshold` on) and of the labels."""
    labelled = predictions.au >= 0
    decisions = (predictions.probability >= threshold).astype(np.int8)
    return Adjacency(correlate_columns(decisions, mask=labelled), correlate_columns(predictions.au, mask=labelled))


def adjacency_distance(predictions: Predictions, *, threshold: float) -> float:
    """How far the predicted correlations are from the labelled ones, in [0, 2]; lower is better.

    The L2 (Frobenius) norm of the difference of both matrices, divided by the root of the number of entries: the root mean
    square difference of a coefficient, which does not grow with the number of AUs. The diagonal, 1 in both, and pairs
    without a labelled coefficient are left out. The coefficient of a decision that never varies counts as 0, so that a
    method gains nothing by never predicting an AU. nan where no pair is left.
    """
    predicted, labelled = correlate_aus(predictions, threshold=threshold)
    entries = ~np.isnan(labelled) & ~np.eye(len(labelled), dtype=bool)
    return float(np.sqrt(nanmean((np.nan_to_num(predicted) - labelled)[entries] ** 2)))


def dependency_f1(predictions: Predictions, *, threshold: float) -> float:
    """F1 of an AU over the frames in which another one is truly active, mean over ordered pairs; in [0, 1].

    From Tirupattur et al.: the condition on another action's label at the same time step (their tau = 0; their metric can
    also look before and after it), and that a pair counts only if both do occur together. Different here: they average
    precision and recall over the pairs first and take the harmonic mean of both averages; here each pair has its own F1,
    as each AU has in every other table. nan where no two AUs occur together.
    """
    pairs = []
    for condition in range(len(predictions.aus)):
        active = predictions.au[:, condition] == 1
        counts = count_confusions(
            probability=predictions.probability[active], au=predictions.au[active], threshold=threshold
        )
        pairs.append(np.delete(counts.f1, condition))
    return float(nanmean(np.array(pairs)))


def _correlate(x: np.ndarray, y: np.ndarray) -> float:
    if not len(x) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(dtype=float), y - y.mean(dtype=float)
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))
