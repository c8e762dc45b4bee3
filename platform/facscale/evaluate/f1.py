"""F1 as AU papers count it: for each AU, TP, FP and FN are pooled over all frames of a test fold.

F1 of an AU is the mean over the folds, F1 of a method the mean over AUs. A frame that is not labelled for an AU (-1) is
ignored for that AU. An AU without a positive frame in a test fold has no F1 there (nan, where scikit-learn returns 0 with a
warning) and is left out of that AU's mean over folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConfusionCounts:
    """True positives, false positives and false negatives of each AU; every array is int64 [n] or [folds, n]."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """2 TP / (2 TP + FP + FN) in [0, 1]; nan where there is no positive frame (TP + FN = 0)."""
        positive = self.tp + self.fn
        total = 2 * self.tp + self.fp + self.fn
        f1: np.ndarray = np.divide(2.0 * self.tp, total, out=np.full(np.shape(total), np.nan), where=positive > 0)
        return f1

    @staticmethod
    def stack(folds: Sequence[ConfusionCounts]) -> ConfusionCounts:
        """Stack the counts of several folds, [n] each, to [folds, n]."""
        return ConfusionCounts(*(np.stack([getattr(fold, name) for fold in folds]) for name in ("tp", "fp", "fn")))

    def pool(self) -> ConfusionCounts:
        """Add up all folds, [folds, n] -> [n]."""
        return ConfusionCounts(self.tp.sum(axis=0), self.fp.sum(axis=0), self.fn.sum(axis=0))


def count_confusions(*, probability: np.ndarray, au: np.ndarray, threshold: float = 0.5) -> ConfusionCounts:
    """Compare probabilities [N, n] in [0, 1] with labels [N, n] in {0, 1, -1}.

    An AU is predicted where its probability is at least `threshold`. Raises ValueError where the shapes differ.
    """
    if probability.shape != au.shape:
        raise ValueError(f"probabilities {list(probability.shape)} and labels {list(au.shape)} differ in shape")
    predicted, positive, negative = probability >= threshold, au == 1, au == 0
    return ConfusionCounts(
        tp=(predicted & positive).sum(axis=0, dtype=np.int64),
        fp=(predicted & negative).sum(axis=0, dtype=np.int64),
        fn=(~predicted & positive).sum(axis=0, dtype=np.int64),
    )


def nanmean(values: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    """Mean of the values that are not nan; nan where all are, without numpy's warning."""
    defined = ~np.isnan(values)
    total, number = np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis)
    mean: np.ndarray = np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)
    return mean
