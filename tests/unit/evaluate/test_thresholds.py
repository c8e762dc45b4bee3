"""Thresholds, tuned honestly and dishonestly, and areas under curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score

from facscale.evaluate import Predictions, analyze_thresholds
from facscale.evaluate.thresholds import trace_curve
from predicted import make_tied_predictions


def curve_of(probability, au):
    """Of frames in any order, some of them not labelled."""
    known = np.flatnonzero(au >= 0)
    order = known[np.argsort(-probability[known], kind="stable")]
    return trace_curve(probability[order], au[order])


def f1_score(au, found):
    """Twice what is right over what there is and what is found."""
    return 2 * np.sum((au == 1) & found) / (np.sum(au == 1) + np.sum(found))


def brute(probability, au):
    """The best F1 and its highest threshold, by trying every probability."""
    known = au >= 0
    tried = [
        (f1_score(au[known], probability[known] >= value), float(value)) for value in np.unique(probability[known])
    ]
    return max(tried)


@pytest.mark.parametrize("decimals", [1, 2, 7])
def test_the_best_threshold_is_the_best_of_all(decimals):
    for seed in range(4):
        ours = make_tied_predictions(120, seed=seed, decimals=decimals)
        for number in range(2):
            probability, au = ours.probability[:, number], ours.au[:, number]
            found, (f1, threshold) = curve_of(probability, au), brute(probability, au)
            assert found.best == threshold
            assert np.max(found.f1) == pytest.approx(f1)


@pytest.mark.parametrize("decimals", [1, 2, 7])
def test_areas_are_scikit_learns_and_scipys(decimals):
    ours = make_tied_predictions(decimals=decimals)
    probability, au = ours.probability[:, 1], ours.au[:, 1]
    found, known = curve_of(probability, au), au >= 0
    assert found.auc == pytest.approx(roc_auc_score(au[known], probability[known]))
    u = mannwhitneyu(probability[au == 1], probability[au == 0]).statistic
    assert found.auc == pytest.approx(u / (au == 1).sum() / (au == 0).sum())
    assert found.average_precision == pytest.approx(average_precision_score(au[known], probability[known]))


def test_by_hand():
    # from .8 on: 1 of 1 right of 2, F1 = 2/3; from .6 on 2 of 4 (ties come together): 4/6; from .1 on 2 of 5: 4/7
    found = curve_of(np.array([0.6, 0.8, 0.6, 0.1, 0.6, 0.9]), np.array([0, 1, 1, 0, 0, -1]))
    assert found.threshold.tolist() == [0.8, 0.6, 0.1]
    assert (found.tp.tolist(), found.fp.tolist()) == ([1, 2, 2], [0, 2, 3])
    assert found.f1 == pytest.approx([2 / 3, 2 / 3, 4 / 7])
    assert found.best == 0.8
    assert found.auc == pytest.approx((3 + 1 + 2 / 2) / 6)  # .8 beats three, .6 beats one and ties with two
    assert found.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


def test_without_frames_of_a_kind_areas_are_undefined():
    never = curve_of(np.array([0.1, 0.2]), np.array([0, 0]))
    assert np.isnan([never.best, never.auc, never.average_precision]).all()
    always = curve_of(np.array([0.1, 0.2]), np.array([1, 1]))
    assert np.isnan(always.auc)
    assert (always.best, always.average_precision) == (pytest.approx(0.1), 1)
    nothing = curve_of(np.array([0.1]), np.array([-1]))
    assert np.isnan([nothing.best, nothing.auc, nothing.average_precision]).all()


def test_each_fold_takes_the_threshold_of_the_others():
    ours = make_tied_predictions()
    found = analyze_thresholds([ours], threshold=0.5)
    assert np.array_equal(found.fixed, ours.score(0.5).by_fold)
    for fold in range(3):
        mine, others = ours.select(ours.fold == fold), ours.select(ours.fold != fold)
        for number in range(2):
            _, threshold = brute(others.probability[:, number], others.au[:, number])
            assert found.cross_fitted_threshold[fold, number] == threshold
            known = mine.au[:, number] >= 0
            f1 = f1_score(mine.au[known, number], mine.probability[known, number] >= threshold)
            assert found.cross_fitted[fold, number] == pytest.approx(f1)
            best, _ = brute(mine.probability[:, number], mine.au[:, number])
            assert found.oracle[fold, number] == pytest.approx(best)
            auc = roc_auc_score(mine.au[known, number], mine.probability[known, number])
            assert found.auc[fold, number] == pytest.approx(auc)


def test_no_label_of_a_tested_person_decides_their_threshold():
    ours = make_tied_predictions()
    before = analyze_thresholds([ours], threshold=0.5)
    flipped = np.where((ours.fold == 1)[:, None] & (ours.au >= 0), 1 - ours.au, ours.au).astype(np.int8)
    after = analyze_thresholds([replace(ours, au=flipped)], threshold=0.5)
    assert np.array_equal(after.cross_fitted_threshold[1], before.cross_fitted_threshold[1])
    assert (after.cross_fitted_threshold[[0, 2]] != before.cross_fitted_threshold[[0, 2]]).any()


def test_repeated_splits_do_not_let_a_tested_person_in_by_another_split():
    ours = make_tied_predictions()
    other = replace(ours, fold=((ours.fold + (np.arange(300) % 9 < 3)) % 3).astype(np.int8))
    both = Predictions.concat_splits([ours, other])
    found = analyze_thresholds([both], threshold=0.5)
    for fold in range(6):
        tested = set(both.identity[both.fold == fold])
        others = both.select(~np.isin(both.identity, list(tested)))
        assert found.cross_fitted_threshold[fold, 0] == brute(others.probability[:, 0], others.au[:, 0])[1]


def test_the_oracle_is_never_worse():
    for seed in range(5):
        found = analyze_thresholds([make_tied_predictions(seed=seed)], threshold=0.5)
        assert (found.oracle >= np.maximum(found.fixed, found.cross_fitted)).all()


def test_where_nobody_else_is_there_nothing_is_cross_fitted():
    alone = replace(make_tied_predictions(), fold=np.zeros(300, np.int8), folds=("all",))
    every = Predictions.concat([alone, replace(alone, folds=("again",))])
    for one in (alone, every):
        found = analyze_thresholds([one], threshold=0.5)
        assert np.isnan(found.cross_fitted).all()
        assert not np.isnan([found.fixed, found.oracle, found.auc, found.average_precision]).any()


def test_where_the_others_never_show_an_au_the_fixed_threshold_stays():
    ours = make_tied_predictions()
    au = np.where((ours.fold > 0)[:, None] & (ours.au == 1), 0, ours.au).astype(np.int8)
    found = analyze_thresholds([replace(ours, au=au)], threshold=0.4)
    assert (found.cross_fitted_threshold[0] == 0.4).all()
    assert np.array_equal(found.cross_fitted[0], found.fixed[0])
    assert np.isnan(found.oracle[1:]).all()
