"""F1 at a fixed threshold, at a cross-fitted one, and at the best one of the test fold.

The threshold alone changes the F1 of a model by several points, so a row with a tuned threshold cannot be compared with one
without. There are three kinds:

    fixed         the same for all AUs and folds
    cross-fitted  for each fold and AU, the threshold with the best F1 over the predictions of all people whom the fold does
                  not test, so that no label of a test person takes part in the choice. Two leaks remain: those predictions
                  are by the models of other folds, which were trained on people tested here; and a threshold is carried over
                  from the outputs of other models, as if all were on one scale.
    oracle        tuned on the very labels that it is tested on: an upper bound, not a result. Tables call it "cheating".

Areas under curves need no threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facscale.evaluate.f1 import ConfusionCounts, count_confusions, nanmean
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.subjects import index_subjects


class ThresholdCurve(NamedTuple):
    """Decisions about one AU at every threshold that makes a difference, from the highest one down."""

    threshold: np.ndarray  # [K]: the distinct probabilities; an AU is predicted from it on
    tp: np.ndarray  # [K] int64
    fp: np.ndarray  # [K] int64

    @property
    def f1(self) -> np.ndarray:
        """F1 at each threshold [K], as in `ConfusionCounts`."""
        positives = self.tp[-1:].sum()  # none on an empty curve
        return ConfusionCounts(self.tp, self.fp, positives - self.tp).f1

    @property
    def best(self) -> float:
        """The threshold with the largest F1, the highest of several; nan without a positive frame."""
        f1 = self.f1
        return float("nan") if np.isnan(f1).all() else float(self.threshold[np.nanargmax(f1)])

    @property
    def auc(self) -> float:
        """Area under the receiver operating characteristic; nan without frames of both kinds.

        How often a positive frame's probability is above a negative one's, ties counting half: Mann-Whitney's U / (P N).
        """
        tp, fp = (np.concatenate([[0], line]).astype(float) for line in (self.tp, self.fp))
        pairs = tp[-1] * fp[-1]
        return float((np.diff(fp) * (tp[1:] + tp[:-1])).sum() / 2 / pairs) if pairs else float("nan")

    @property
    def average_precision(self) -> float:
        """Sum of precision times the growth of recall, without interpolation; nan without a positive frame."""
        if not self.tp[-1:].sum():
            return float("nan")
        precision = self.tp / (self.tp + self.fp)
        return float((precision * np.diff(self.tp, prepend=0)).sum() / self.tp[-1])


@dataclass(frozen=True)
class ThresholdAnalysis:
    """One method. Every array is [folds, n], in [0, 1], nan if undefined; the folds of several seeds stand below each other."""

    name: str
    aus: tuple[int, ...]
    threshold: float  # the fixed one
    fixed: np.ndarray  # F1 at it
    cross_fitted: np.ndarray  # F1 at the threshold tuned on other people; nan where there are none
    oracle: np.ndarray  # F1 at the best threshold for the test fold's own labels
    auc: np.ndarray  # area under the receiver operating characteristic
    average_precision: np.ndarray
    cross_fitted_threshold: np.ndarray

    def average_folds(self, measure: str) -> np.ndarray:
        """Mean of one of the arrays over the folds in which it is defined [n]."""
        return nanmean(getattr(self, measure), axis=0)


def trace_curve(probability: np.ndarray, au: np.ndarray) -> ThresholdCurve:
    """The curve of probabilities [N], sorted from the highest one down, and their labels [N] in {1, 0}."""
    last = np.flatnonzero(np.append(probability[1:] != probability[:-1], [True]))[: len(probability)]  # of equal ones
    positive = np.cumsum(au, dtype=np.int64)[last]
    return ThresholdCurve(probability[last], positive, last + 1 - positive)


def analyze_thresholds(seeds: Sequence[Predictions], *, threshold: float) -> ThresholdAnalysis:
    """Analyze a method that was trained once or with several seeds; `threshold` is the fixed one.

    Where no other people are tested (one fold, or a data set that every fold tests completely), nothing is cross-fitted
    (nan). Where the other people show no positive frame of an AU, the fixed threshold is used.
    """
    first = seeds[0]
    arrays = np.concatenate([_analyze_seed(seed, threshold=threshold) for seed in seeds], axis=1)
    return ThresholdAnalysis(first.name, first.aus, threshold, *arrays)


def _analyze_seed(predictions: Predictions, *, threshold: float) -> np.ndarray:
    """The arrays of `ThresholdAnalysis` [6, folds, n], in their order."""
    _, person, tested = index_subjects(predictions)
    arrays = np.full((6, len(predictions.folds), len(predictions.aus)), np.nan)
    for number in range(len(predictions.aus)):
        order = np.argsort(-predictions.probability[:, number], kind="stable")
        order = order[predictions.au[order, number] >= 0]
        probability, au = predictions.probability[order, number], predictions.au[order, number]
        for fold in range(len(predictions.folds)):
            test, other = predictions.fold[order] == fold, ~tested[person[order], fold]
            curve = trace_curve(probability[test], au[test])
            cross_fitted = _tune_threshold(trace_curve(probability[other], au[other]), default=threshold)
            f1 = [
                _compute_f1(probability[test], au[test], threshold=value)
                for value in (threshold, cross_fitted, curve.best)
            ]
            arrays[:, fold, number] = *f1, curve.auc, curve.average_precision, cross_fitted
    return arrays


def _tune_threshold(curve: ThresholdCurve, *, default: float) -> float:
    """The best threshold on a curve, `default` without a positive frame, nan without any frame."""
    if not len(curve.threshold):
        return float("nan")
    return default if np.isnan(curve.best) else curve.best


def _compute_f1(probability: np.ndarray, au: np.ndarray, *, threshold: float) -> float:
    if np.isnan(threshold):
        return float("nan")
    return float(count_confusions(probability=probability, au=au, threshold=threshold).f1)
