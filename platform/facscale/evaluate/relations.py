"""Whether a method's AUs occur together as the labelled ones do (AUNet, section V.E, Table X and Figure 8).

AUNet gives two figures without their formulas, and only as differences between two methods: the L2 distance between
adjacency matrices, for which it cites Niu et al., "Multi-label co-regularization for semi-supervised facial action unit
recognition" (NeurIPS 2019), and the dependency F1 of Tirupattur et al., "Modeling multi-label action dependencies for
temporal action localization" (CVPR 2021). Both are made exact here. Frames of all folds count together.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from facscale.evaluate.f1 import count, mean
from facscale.evaluate.predictions import Predictions


class Adjacency(NamedTuple):
    """How AUs go together, [n, n] each in [-1, 1], over the same frames; nan where an AU never varies."""

    predicted: np.ndarray
    labelled: np.ndarray


def correlation(values: np.ndarray, *, known: np.ndarray | None = None) -> np.ndarray:
    """Pearson's coefficient of every pair of the columns of `values` [N, n], as [n, n].

    known [N, n]: what counts; a pair is compared over the frames in which both are known. nan where one of the two
    never varies there.
    """
    known = np.ones(values.shape, bool) if known is None else known
    found = np.full((values.shape[1], values.shape[1]), np.nan)
    for one, other in combinations_with_replacement(range(values.shape[1]), 2):
        both = known[:, one] & known[:, other]
        found[one, other] = found[other, one] = _pearson(values[both, one], values[both, other])
    return found


def adjacency(predictions: Predictions, *, threshold: float) -> Adjacency:
    """What Figure 8 shows: the coefficients of the decisions (found from `threshold` on) and of the labels."""
    known = predictions.au >= 0
    found = (predictions.probability >= threshold).astype(np.int8)
    return Adjacency(correlation(found, known=known), correlation(predictions.au, known=known))


def adjacency_distance(predictions: Predictions, *, threshold: float) -> float:
    """How far the predicted coefficients are from the labelled ones, in [0, 2]; the lower, the better.

    The L2 (Frobenius) norm of the difference of both matrices, divided by the root of the number of entries: the root
    mean square difference of a coefficient, which does not grow with the number of AUs. The diagonal, 1 in both, and pairs
    without a labelled coefficient are no part of it. A decision that never varies goes together with nothing: 0, so that
    a method gains nothing by never finding an AU. nan where no pair is left.
    """
    predicted, labelled = adjacency(predictions, threshold=threshold)
    entries = ~np.isnan(labelled) & ~np.eye(len(labelled), dtype=bool)
    return float(np.sqrt(mean((np.nan_to_num(predicted) - labelled)[entries] ** 2)))


def dependency_f1(predictions: Predictions, *, threshold: float) -> float:
    """F1 of one AU over the frames in which another one is truly active, mean over ordered pairs; in [0, 1].

    From Tirupattur et al.: the condition on another action's label at the same time step (their tau = 0; their metric
    can also look before and after it), and that a pair counts only if both do occur together. Different here: they
    average precision and recall over the pairs first and take the harmonic mean of both averages; here each pair has its
    own F1, as each AU has in every other table. nan where no two AUs occur together.
    """
    pairs = []
    for condition in range(len(predictions.aus)):
        active = predictions.au[:, condition] == 1
        f1 = count(probability=predictions.probability[active], au=predictions.au[active], threshold=threshold).f1
        pairs.append(np.delete(f1, condition))
    return float(mean(np.array(pairs)))


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    if not len(one) or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    x, y = one - one.mean(dtype=float), other - other.mean(dtype=float)
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))
