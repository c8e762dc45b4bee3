"""AUs that occur together, in the labels and in what is predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

from facscale.evaluate import Predictions, adjacency_distance, correlate_aus, correlate_columns, dependency_f1


def predicted(probability, au):
    frames, aus = np.shape(au)
    return Predictions(
        "ours",
        tuple(range(1, aus + 1)),
        np.array(probability, np.float32),
        np.array(au, np.int8),
        np.full(frames, "a"),
        np.full(frames, "v"),
        np.arange(frames, dtype=np.int32),
        np.zeros(frames, np.int8),
        ("fold0",),
    )


def drawn(frames=80, *, seed=0):
    random = np.random.default_rng(seed)
    au = (random.normal(size=(frames, 4)) + random.normal(size=(frames, 1)) > 0.3).astype(np.int8)
    probability = np.clip(au * 0.4 + random.random((frames, 4)) * 0.6, 0, 1)
    au[random.random((frames, 4)) < 0.15] = -1
    return predicted(probability, au)


def test_by_hand():
    # phi of [1 1 0 0] and [1 0 0 0]: (1 * 2 - 1 * 0) / sqrt(2 * 2 * 1 * 3) = 1 / sqrt(3)
    found = correlate_columns(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]))
    assert found[0, 1] == pytest.approx(1 / np.sqrt(3))
    assert found[0, 2] == pytest.approx(-1)
    assert np.array_equal(found, found.T)
    assert np.diag(found) == pytest.approx(1)


def test_it_is_scipys_on_the_frames_in_which_both_are_known():
    ours = drawn()
    known = ours.au >= 0
    found = correlate_columns(ours.probability, mask=known)
    for one in range(4):
        for other in range(4):
            both = known[:, one] & known[:, other]
            theirs = pearsonr(ours.probability[both, one].astype(float), ours.probability[both, other].astype(float))
            assert found[one, other] == pytest.approx(theirs.statistic, abs=1e-6)


def test_what_never_varies_has_no_coefficient():
    values = np.array([[0.1, 0.2], [0.1, 0.4], [0.1, 0.1]], np.float32)
    assert np.isnan(correlate_columns(values)).tolist() == [[True, True], [True, False]]
    assert np.isnan(correlate_columns(values, mask=np.zeros((3, 2), bool))).all()


def test_adjacency_looks_at_decisions_not_at_what_is_not_labelled():
    ours = drawn()
    found = correlate_aus(ours, threshold=0.5)
    hidden = np.where(ours.au < 0, 0.99, ours.probability).astype(np.float32)
    again = correlate_aus(replace(ours, probability=hidden), threshold=0.5)
    assert np.array_equal(found.predicted, again.predicted)
    assert np.array_equal(found.labelled, again.labelled)
    assert not np.array_equal(found.predicted, correlate_aus(ours, threshold=0.7).predicted)


def test_distance_by_hand():
    au = [[1, 1], [1, 0], [0, 0], [0, 0]]
    assert adjacency_distance(predicted(np.array(au) * 0.6 + 0.2, au), threshold=0.5) == 0
    # predicted -1 where labelled 1 / sqrt(3); both entries off the diagonal are the same
    opposite = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]
    assert adjacency_distance(predicted(opposite, au), threshold=0.5) == pytest.approx(1 + 1 / np.sqrt(3))
    # nothing found: no coefficient, counted as 0
    assert adjacency_distance(predicted(np.zeros((4, 2)), au), threshold=0.5) == pytest.approx(1 / np.sqrt(3))


def test_distance_is_the_frobenius_norm_by_the_root_of_the_entries():
    ours = drawn()
    one, other = correlate_aus(ours, threshold=0.6)
    assert adjacency_distance(ours, threshold=0.6) == pytest.approx(np.linalg.norm(one - other) / np.sqrt(4 * 3))


def test_distance_without_pairs_is_undefined():
    assert np.isnan(adjacency_distance(predicted([[0.5], [0.1]], [[1], [0]]), threshold=0.5))
    assert np.isnan(adjacency_distance(predicted(np.eye(2), np.zeros((2, 2))), threshold=0.5))


def test_dependency_f1_by_hand():
    au = [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0], [-1, 1, 0], [0, 0, 1]]
    found = [[1, 1, 0], [0, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]]
    # AU1 where AU2 is active: 1 found, 1 missed, 1 too many (what is not labelled does not count): 2 / 4
    # AU2 where AU1 is active: 2 found, 1 too many: 4 / 5. AU3 is never active with another one
    assert dependency_f1(predicted(found, au), threshold=0.5) == pytest.approx((0.5 + 0.8) / 2)


def test_dependency_f1_is_a_slow_loop():
    ours = drawn()
    values = []
    for one in range(4):
        for condition in range(4):
            rows = [row for row in range(80) if ours.au[row, condition] == 1 and ours.au[row, one] >= 0]
            if one != condition and any(ours.au[row, one] == 1 for row in rows):
                values.append(f1_score(ours.au[rows, one], ours.probability[rows, one] >= 0.6))
    assert len(values) == 12
    assert dependency_f1(ours, threshold=0.6) == pytest.approx(np.mean(values))


def test_dependency_f1_without_pairs_is_undefined():
    assert np.isnan(dependency_f1(predicted([[0.5], [0.1]], [[1], [0]]), threshold=0.5))
    assert np.isnan(dependency_f1(predicted(np.eye(2), np.eye(2)), threshold=0.5))
