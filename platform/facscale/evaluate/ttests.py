"""Paired t-tests of two methods: of their errors over frames and over people (AUNet, Table XII), of F1 over splits.

The frames of a video resemble each other, so a test over frames counts the same evidence many times over and its p is far
too small, down to 1e-160 in the paper. The people of a data set are independent of each other: the p over their mean
errors is the one to believe.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from facscale.evaluate.f1 import mean
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.subjects import people

SMALLEST = float(np.finfo(float).tiny)  # no test is certain: what is smaller than a float can be stays above 0


class TTest(NamedTuple):
    """Of b against a: b errs less where t and `difference` are negative. p is two-sided."""

    frames_t: float
    frames_p: float
    subjects_t: float
    subjects_p: float
    difference: float  # mean error of b minus that of a, over frames


class CorrectedT(NamedTuple):
    """Of b against a: b's F1 is higher where t and `difference` are positive."""

    t: float
    p: float
    difference: float  # mean over the folds, F1 in [0, 1]
    folds: int


def paired_t(a: Predictions, b: Predictions) -> TTest:
    """Student's paired t-test of b's errors against a's, over frames and over the mean errors of the people.

    The error of a frame is the mean of |p - y| over the AUs labelled in it; a frame without a label is no part. One that
    several folds test has the mean of its errors. Frames are matched by person, video and number, in whatever order they
    stand. Raises ValueError where they, the AUs or the labels are not the same.

    Differs from the paper: it does not say what a pair is. Two-sided, its t and p fit each other from 0.9 million pairs on,
    so these were perhaps the single labels (twelve a frame, 1.76 million in BP4D's 146,847 frames).
    """
    a, b = (method.chosen(method.order()) for method in (a, b))
    _same(a, b)
    known = np.asarray((a.au >= 0).any(axis=1))
    difference, identity = (_errors(b) - _errors(a))[known], a.identity[known]
    begun = a.chosen(known).begins()
    frame = np.cumsum(begun) - 1
    difference = np.bincount(frame, weights=difference) / np.bincount(frame)
    _, person = np.unique(identity[begun], return_inverse=True)
    of_people = np.bincount(person, weights=difference) / np.bincount(person)
    return TTest(*_t(difference), *_t(of_people), float(mean(difference)))


def corrected_t(a: Predictions, b: Predictions, *, threshold: float) -> CorrectedT:
    """Nadeau and Bengio's corrected resampled t-test ("Inference for the generalization error", Machine Learning 2003).

    Over the J folds of all splits, each with the difference d of the mean F1: t = mean(d) / sqrt((1 / J + r) var(d)) with
    J - 1 degrees of freedom, where r is the number of people tested over that of people trained on. The folds share what
    they are trained on, and repeated splits share everything, so that 1 / J alone would be far too small. Made for random
    splits; for repeated cross-validation by Bouckaert and Frank ("Evaluating the replicability of significance tests for
    comparing learning algorithms", PAKDD 2004). p is two-sided.

    Raises ValueError where the folds are not the same, or test all people, so that nobody is left to train on.
    """
    if a.folds != b.folds:
        raise ValueError(f"{a.name} and {b.name} were tested in different folds")
    tested = people(a).tested
    if tested.shape != people(b).tested.shape or (tested != people(b).tested).any():
        raise ValueError(f"{a.name} and {b.name} were tested on different people")
    if tested.all(axis=0).any():
        raise ValueError(f"a fold of {a.name} tests all people: it is no part of a cross-validation")
    found = b.row(threshold).fold_means - a.row(threshold).fold_means
    found = found[~np.isnan(found)]
    ratio = float((tested.sum(axis=0) / (~tested).sum(axis=0)).mean())
    t, p = _t(found, shared=ratio)
    return CorrectedT(t, p, float(mean(found)), len(found))


def _errors(predictions: Predictions) -> np.ndarray:
    """Mean |p - y| of each frame [N], nan where nothing is labelled."""
    error = np.abs(predictions.probability.astype(float) - predictions.au)
    return mean(np.where(predictions.au >= 0, error, np.nan), axis=1)


def _same(a: Predictions, b: Predictions) -> None:
    """Both in order. Raises ValueError."""
    names = f"{a.name} and {b.name}"
    if a.aus != b.aus:
        raise ValueError(f"{names} judge different AUs")
    if not a.same_frames(b):
        raise ValueError(f"{names} were not tested on the same frames ({len(a)} and {len(b)})")
    if any((~one.begins()[1:] & (one.fold[1:] == one.fold[:-1])).any() for one in (a, b)):
        raise ValueError(f"{names} were tested more than once on the same frame in one fold")
    if (a.au != b.au).any():
        raise ValueError(f"{names} were tested with different labels")


def _t(difference: np.ndarray, *, shared: float = 0.0) -> tuple[float, float]:
    """T and two-sided p of the mean of `difference` [N] against 0: 0 and 1 where all are 0, nan for fewer than two.

    shared: of Nadeau and Bengio's correction, how much of the variance no further value takes away.
    """
    number = len(difference)
    if number < 2:
        return float("nan"), float("nan")
    if not difference.any():
        return 0.0, 1.0
    average, error = difference.mean(), difference.std(ddof=1) * np.sqrt(1 / number + shared)
    t = average / error if error else np.copysign(np.inf, average)
    return float(t), max(float(2 * stdtr(number - 1, -abs(t))), SMALLEST)
