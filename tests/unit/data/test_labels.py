import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from facscale.data.labels import compute_au_weights, compute_base_rates, compute_class_weights


def test_base_rates_count_the_labelled_frames():
    au = np.array([[1, -1, 0], [0, -1, 0], [-1, -1, 0], [0, -1, 0], [0, -1, 0]], np.int8)
    assert np.array_equal(compute_base_rates(au), [0.25, np.nan, 0], equal_nan=True)


def test_au_weights_by_hand():
    # r = 1/2 and 1/4: (1/r) / sum(1/r) * n = 2/6 * 2 and 4/6 * 2
    au = np.array([[1, 1], [1, 0], [0, 0], [0, 0]], np.int8)
    assert compute_au_weights(au) == pytest.approx([2 / 3, 4 / 3])


def test_au_weights_of_an_au_without_positives_or_labels():
    au = np.array([[1, 0, -1], [0, 0, -1]], np.int8)  # r = 1/2, then as if one of two
    assert compute_au_weights(au) == pytest.approx([1, 1, 0])
    assert compute_au_weights(np.full((2, 3), -1, np.int8)).tolist() == [0, 0, 0]


def test_class_weights_are_scikit_learns_balanced_ones():
    au = (np.random.default_rng(0).random((200, 4)) < [0.1, 0.3, 0.5, 0.9]).astype(np.int8)
    ours = compute_class_weights(au)
    for number in range(4):
        theirs = compute_class_weight("balanced", classes=np.array([0, 1]), y=au[:, number])
        assert ours[:, number] == pytest.approx(theirs)


def test_class_weights_at_the_edges_stay_finite():
    au = np.array([[1, 0, -1], [1, 0, -1]], np.int8)
    assert compute_class_weights(au).tolist() == [[1, 1, 0], [1, 1, 0]]
