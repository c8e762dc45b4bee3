"""Paired t-tests of the errors of two methods, over frames and over people (AUNet, Table XII).

The frames of a video resemble each other, so a test over frames counts the same evidence many times over and its p is far
too small, down to 1e-160 in the paper. The people of a data set are independent of each other: trust the p over their
mean errors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from facscale.evaluate.f1 import nanmean
from facscale.evaluate.predictions import Predictions

MIN_P = float(np.finfo(float).tiny)  # a p that a float cannot hold stays above 0: no test is certain


class TTest(NamedTuple):
    """A test of b against a: b errs less where t and `difference` are negative. p is two-sided."""

    frames_t: float
    frames_p: float
    subjects_t: float
    subjects_p: float
    difference: float  # mean error of b minus that of a, over frames


def paired_t_test(a: Predictions, b: Predictions) -> TTest:
    """Student's paired t-test of b's errors against a's, over frames and over the mean errors of the people.

    The error of a frame is the mean of |p - y| over the AUs labelled in it; a frame without a label is left out. A frame
    that several folds test has the mean of its errors. Frames are matched by person, video and number, whatever their
    order. Raises ValueError where the frames, the AUs or the labels differ.

    Differs from the paper, which does not define a pair. Two-sided, its t and p fit each other from 0.9 million pairs on, so
    its pairs were perhaps the single labels (twelve per frame, 1.76 million in BP4D's 146,847 frames).
    """
    a, b = (predictions.select(predictions.sort_order()) for predictions in (a, b))
    _check_comparable(a, b)
    labelled = np.asarray((a.au >= 0).any(axis=1))
    difference, identity = (_frame_errors(b) - _frame_errors(a))[labelled], a.identity[labelled]
    is_new = a.select(labelled).is_new_frame()
    frame = np.cumsum(is_new) - 1
    by_frame = np.bincount(frame, weights=difference) / np.bincount(frame)
    _, person = np.unique(identity[is_new], return_inverse=True)
    by_person = np.bincount(person, weights=by_frame) / np.bincount(person)
    return TTest(*_test_mean(by_frame), *_test_mean(by_person), float(nanmean(by_frame)))


def _frame_errors(predictions: Predictions) -> np.ndarray:
    """Mean |p - y| of each frame [N], nan where nothing is labelled."""
    error = np.abs(predictions.probability.astype(float) - predictions.au)
    return nanmean(np.where(predictions.au >= 0, error, np.nan), axis=1)


def _check_comparable(a: Predictions, b: Predictions) -> None:
    """Raise ValueError unless sorted predictions have the same frames, AUs and labels."""
    names = f"{a.name} and {b.name}"
    if a.aus != b.aus:
        raise ValueError(f"{names} predict different AUs")
    if not a.has_same_frames(b):
        raise ValueError(f"{names} were not tested on the same frames ({len(a)} and {len(b)})")
    if any((~side.is_new_frame()[1:] & (side.fold[1:] == side.fold[:-1])).any() for side in (a, b)):
        raise ValueError(f"{names} were tested more than once on the same frame in one fold")
    if (a.au != b.au).any():
        raise ValueError(f"{names} were tested with different labels")


def _test_mean(difference: np.ndarray) -> tuple[float, float]:
    """T and two-sided p of the mean of `difference` [N] against 0: 0 and 1 where all are 0, nan for fewer than two."""
    number = len(difference)
    if number < 2:
        return float("nan"), float("nan")
    if not difference.any():
        return 0.0, 1.0
    mean, error = difference.mean(), difference.std(ddof=1) * np.sqrt(1 / number)
    t = mean / error if error else np.copysign(np.inf, mean)
    from scipy.special import stdtr  # slow to import, and `check` needs none of it

    return float(t), max(float(2 * stdtr(number - 1, -abs(t))), MIN_P)
