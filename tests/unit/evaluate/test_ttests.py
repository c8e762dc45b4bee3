"""Paired t-tests: whether one method errs less than another."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from scipy.stats import ttest_rel

from facscale.evaluate import Predictions, paired_t_test
from facscale.evaluate.ttests import MIN_P
from predicted import make_pair, make_predictions


def slow(a, b):
    """Differences of the frames' errors, and of the people's, in Python's floats."""
    frames, people = [], {}
    for row in range(len(a)):
        known = [number for number in range(len(a.aus)) if a.au[row, number] >= 0]
        if not known:
            continue
        one, other = (
            sum(abs(float(method.probability[row, number]) - int(method.au[row, number])) for number in known)
            / len(known)
            for method in (a, b)
        )
        frames.append(other - one)
        people.setdefault(a.identity[row], []).append(other - one)
    return frames, [sum(values) / len(values) for values in people.values()]


def formula(differences):
    number = len(differences)
    average = sum(differences) / number
    return average / sqrt(sum((value - average) ** 2 for value in differences) / (number - 1) / number)


def test_t_is_its_formula_over_frames_and_over_people():
    a, b = make_pair()
    frames, people = slow(a, b)
    assert (len(frames), len(people)) == ((a.au >= 0).any(axis=1).sum(), 9)
    found = paired_t_test(a, b)
    assert found.frames_t == pytest.approx(formula(frames), rel=1e-9)
    assert found.subjects_t == pytest.approx(formula(people), rel=1e-9)
    assert found.difference == pytest.approx(sum(frames) / len(frames), rel=1e-9)
    assert found.difference < 0
    assert found.frames_t < 0


def test_t_and_p_are_scipys():
    a, b = make_pair(seed=3)
    found = paired_t_test(a, b)
    frames, people = slow(a, b)
    for differences, t, p in ((frames, found.frames_t, found.frames_p), (people, found.subjects_t, found.subjects_p)):
        theirs = ttest_rel(differences, np.zeros(len(differences)))
        assert (t, p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


def test_by_hand():
    # errors of a: .5 .5 .5, of b: .3 .4 .2; differences -.2 -.1 -.3: mean -.2, deviation .1, t = -.2 / (.1 / sqrt(3))
    a, b = (
        make_predictions([[1 - error] for error in errors], [[1]] * 3) for errors in ((0.5, 0.5, 0.5), (0.3, 0.4, 0.2))
    )
    found = paired_t_test(a, b)
    assert found.frames_t == pytest.approx(-2 * sqrt(3), rel=1e-5)
    assert found.frames_p == pytest.approx(0.0741799, rel=1e-4)  # two degrees of freedom: 1 - t / sqrt(t^2 + 2)
    assert found.difference == pytest.approx(-0.2)
    assert np.isnan([found.subjects_t, found.subjects_p]).all()  # one person


def test_exchanged_methods_only_change_the_sign():
    a, b = make_pair()
    one, other = paired_t_test(a, b), paired_t_test(b, a)
    assert (one.frames_t, one.subjects_t, one.difference) == (-other.frames_t, -other.subjects_t, -other.difference)
    assert (one.frames_p, one.subjects_p) == (other.frames_p, other.subjects_p)


def test_frames_are_matched_in_whatever_order():
    a, b = make_pair()
    shuffled = b.select(np.random.default_rng(1).permutation(len(b)))
    assert paired_t_test(a, shuffled) == paired_t_test(a, b)
    objects = replace(b, identity=b.identity.astype(object), video=b.video.astype(object))
    assert paired_t_test(a, objects) == paired_t_test(a, b)


def test_the_same_predictions_do_not_differ():
    a, _ = make_pair()
    assert paired_t_test(a, a) == (0, 1, 0, 1, 0)


def test_the_same_step_everywhere_is_as_sure_as_a_float_can_say():
    a, b = (make_predictions([[value]] * 4, [[0]] * 4, identity=list("aabb")) for value in (0.5, 0.25))
    assert paired_t_test(a, b) == (-np.inf, MIN_P, -np.inf, MIN_P, -0.25)


def test_without_labels_nothing_is_known():
    a = make_predictions([[0.5]] * 4, [[-1]] * 4)
    assert np.isnan(paired_t_test(a, a)).all()


def test_what_does_not_belong_together_is_refused():
    a, b = make_pair()
    with pytest.raises(ValueError, match=r"a and b were not tested on the same frames \(90 and 89\)"):
        paired_t_test(a, b.select(np.arange(89)))
    with pytest.raises(ValueError, match="not tested on the same frames"):
        paired_t_test(a, replace(b, video=np.full(90, "w")))
    with pytest.raises(ValueError, match="different AUs"):
        paired_t_test(a, replace(b, aus=(1, 2, 4)))
    with pytest.raises(ValueError, match="different labels"):
        paired_t_test(a, replace(b, au=np.zeros_like(b.au)))
    twice = np.arange(90).repeat(2)
    with pytest.raises(ValueError, match="more than once"):
        paired_t_test(a.select(twice), b.select(twice))


def test_a_frame_of_several_folds_counts_once_with_its_mean_error():
    a, b = make_pair()
    better = replace(b, probability=((b.probability + (b.au == 1)) / 2).astype(np.float32))
    shuffled = better.select(np.random.default_rng(1).permutation(len(b)))
    twice = paired_t_test(Predictions.concat_splits([a, a]), Predictions.concat_splits([b, shuffled]))
    (once, again), people = zip(*(slow(a, one) for one in (b, better)), strict=True)
    frames = [(one + other) / 2 for one, other in zip(once, again, strict=True)]
    assert twice.frames_t == pytest.approx(formula(frames), rel=1e-6)
    assert twice.subjects_t == pytest.approx(formula(np.mean(people, axis=0)), rel=1e-6)
    assert paired_t_test(Predictions.concat_splits([a, a]), Predictions.concat_splits([b, b])) == pytest.approx(
        paired_t_test(a, b)
    )
