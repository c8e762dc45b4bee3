"""F1 as the AU papers count it: TP, FP and FN pooled over all frames of one test fold, for each AU.

Then the mean over folds for each AU, and the mean over AUs. A frame that is not labelled for an AU (-1) is no part of
that AU's count. An AU without a positive frame in a test fold has no F1 there (nan, where scikit-learn says 0 and
warns); it is left out of that AU's mean over folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Decisions about each AU; every array is int64 [n], or [folds, n]."""

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
    def stack(counts: Sequence[Counts]) -> Counts:
        """Counts of several folds, [folds, n]."""
        return Counts(*(np.stack([getattr(count, name) for count in counts]) for name in ("tp", "fp", "fn")))

    def pooled(self) -> Counts:
        """All folds together: [folds, n] -> [n]."""
        return Counts(self.tp.sum(axis=0), self.fp.sum(axis=0), self.fn.sum(axis=0))


def count(*, probability: np.ndarray, au: np.ndarray, threshold: float = 0.5) -> Counts:
    """Compare probabilities [N, n] in [0, 1] with labels [N, n] in {0, 1, -1}; an AU is found from `threshold` on."""
    if probability.shape != au.shape:
        raise ValueError(f"probabilities {list(probability.shape)} and labels {list(au.shape)} differ in shape")
    found, positive, negative = probability >= threshold, au == 1, au == 0
    return Counts(
        tp=(found & positive).sum(axis=0, dtype=np.int64),
        fp=(found & negative).sum(axis=0, dtype=np.int64),
        fn=(~found & positive).sum(axis=0, dtype=np.int64),
    )


def mean(values: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    """The mean of the defined values; nan, without a warning, where none is defined."""
    defined = ~np.isnan(values)
    total, number = np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis)
    average: np.ndarray = np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)
    return average
