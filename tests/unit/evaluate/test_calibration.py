from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from facscale.evaluate.calibration import KNOTS, calibrate, fit_curve, measure_reliability, to_logits
from facscale.evaluate.f1 import count_confusions
from facscale.job.detectors import make_calibration
from predicted import make_tied_predictions


def sample(count=4000, *, people=20, scale=3.0, shift=1.0, seed=0):
    """Overconfident, shifted logits of one AU: the true probability is sigmoid(x / scale - shift)."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 3, count)
    y = (random.random(count) < expit(x / scale - shift)).astype(np.int8)
    tables = make_tied_predictions(frames=count, people=people, folds=2)
    probability = np.column_stack([expit(x), expit(x)]).astype(np.float32)
    labels = np.column_stack([y, np.full(count, -1, np.int8)])
    return replace(tables, probability=probability, au=labels)


def test_a_temperature_and_a_bias_are_found():
    table = sample()
    curve = fit_curve("logistic", x=to_logits(table.probability[:, 0]), y=table.au[:, 0])
    fit = LogisticRegression(C=1e9).fit(to_logits(table.probability[:, :1]), table.au[:, 0])
    assert curve.scale == pytest.approx(fit.coef_[0, 0], rel=0.01)
    assert curve.bias == pytest.approx(fit.intercept_[0], rel=0.01)


def test_overconfident_probabilities_become_right():
    result = calibrate([sample()], aus=(1, 12))
    item, unlabelled = result.aus
    assert item.before.bins.ece > 0.15
    assert item.after.bins.ece < 0.04
    assert item.after.log_loss < item.before.log_loss
    assert (item.curve.kind, item.frames, item.people) == ("logistic", 4000, 20)
    assert (unlabelled.curve.kind, unlabelled.threshold, unlabelled.frames) == ("raw", 0.5, 0)


def test_a_step_is_isotonic():
    table = sample()
    x = to_logits(table.probability[:, 0])
    y = (np.random.default_rng(1).random(len(x)) < np.where(x > 2, 0.7, 0.4)).astype(np.int8)
    result = calibrate([replace(table, au=np.column_stack([y, y]))], aus=(1, 12))
    assert result.aus[0].curve.kind == "isotonic"
    assert len(result.aus[0].curve.knots) <= KNOTS
    assert np.diff(result.aus[0].curve.values).min() >= 0


def test_calibrated_numbers_are_of_people_that_nothing_was_fitted_on():
    """Each person's frames are all positive or all negative at random: nothing can be learned about another person."""
    table = sample(people=10)
    random = np.random.default_rng(3)
    person = np.unique(table.identity, return_inverse=True)[1]
    y = random.integers(0, 2, 10)[person].astype(np.int8)
    x = person + random.normal(0, 0.01, len(person))  # tells the person
    table = replace(
        table, probability=np.column_stack([expit(x - 4.5)] * 2).astype(np.float32), au=np.column_stack([y, y])
    )
    after = calibrate([table], aus=(1, 12)).aus[0].after
    assert after.log_loss > 0.5  # an isotonic or logistic curve that had seen the people would do better only by luck


def test_the_best_threshold_has_the_best_f1():
    table = make_tied_predictions()
    result = calibrate([table], aus=table.aus)
    for number, item in enumerate(result.aus):
        probability = item.curve.apply(to_logits(table.probability[:, number]))
        own = count_confusions(probability=probability[:, None], au=table.au[:, number, None], threshold=item.threshold)
        others = [
            count_confusions(probability=probability[:, None], au=table.au[:, number, None], threshold=value).f1[0]
            for value in np.unique(probability)
        ]
        assert own.f1[0] > max(others) - 0.03  # it was chosen on out-of-fold curves


def test_f1_is_by_thresholds_of_other_people():
    result = calibrate([make_tied_predictions()], aus=(1, 12))
    assert 0 < result.f1[1].low <= result.f1[1].value <= result.f1[1].high <= 1
    assert result.mean_f1.value == pytest.approx((result.f1[1].value + result.f1[12].value) / 2)
    metrics = result.to_metrics()
    assert metrics["calibration/f1/AU12"] == result.f1[12].value
    assert all(np.isfinite(value) for value in metrics.values())


def test_ece_by_hand():
    reliability = measure_reliability(np.array([0.1, 0.1, 0.9, 1.0]), np.array([0, 1, 1, 1]))
    # bins of 1/15: 0.1 twice (half positive), 0.9 and 1.0 alone
    assert reliability.bins.ece == pytest.approx((2 * 0.4 + 0.1 + 0.0) / 4)
    assert reliability.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0) / 4)


@pytest.mark.parametrize("labels", [0, 1, -1])
def test_an_au_without_frames_of_both_kinds_keeps_the_sigmoid(labels):
    table = make_tied_predictions()
    result = calibrate([replace(table, au=np.full_like(table.au, labels))], aus=table.aus)
    assert [(item.curve.kind, item.threshold) for item in result.aus] == [("raw", 0.5)] * 2


def test_one_person_is_not_cross_validated():
    table = make_tied_predictions(people=1, folds=1)
    assert [item.curve.kind for item in calibrate([table], aus=table.aus).aus] == ["raw", "raw"]


def test_tables_of_several_data_sets_are_joined():
    first, second = make_tied_predictions(seed=0), make_tied_predictions(seed=1)
    second = replace(second, aus=(12, 4))
    result = calibrate([first, second], aus=(1, 12, 4))
    frames = [
        (first.au[:, 0] >= 0).sum(),
        (first.au[:, 1] >= 0).sum() + (second.au[:, 0] >= 0).sum(),
        (second.au[:, 1] >= 0).sum(),
    ]
    assert [item.frames for item in result.aus] == frames
    assert result.aus[1].people == 18  # of the same names, in two data sets


def test_the_module_applies_the_curves():
    result = calibrate([sample()], aus=(1, 12))
    isotonic = fit_curve("isotonic", x=to_logits(sample().probability[:, 0]), y=sample().au[:, 0])
    items = [result.aus[0], replace(result.aus[1], curve=isotonic)]
    module = make_calibration(replace(result, aus=tuple(items)))
    x = np.linspace(-12, 12, 400)
    expected = np.column_stack([item.curve.apply(x) for item in items])
    assert np.abs(module(torch.from_numpy(np.column_stack([x, x]))).numpy() - expected).max() < 1e-4
