import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from facscale.data.errors import DataError
from facscale.data.labels import (
    class_weights,
    frequencies,
    from_intensity,
    inverse_frequency,
    occurrence,
    positive_weights,
)


def test_bp4ds_nine_becomes_not_labelled():
    au = occurrence(np.array([[0, 1], [9, -1]]))
    assert au.tolist() == [[0, 1], [-1, -1]]
    assert au.dtype == np.int8


def test_intensities_are_refused_as_occurrences():
    with pytest.raises(DataError, match=r"\[3, 5\].*intensities"):
        occurrence(np.array([[0, 3, 5]]))
    with pytest.raises(DataError, match="shape"):
        occurrence(np.array([0, 1]))


def test_disfas_intensities_count_from_two():
    assert from_intensity(np.array([[-1, 0, 1, 2, 5]])).tolist() == [[-1, 0, 0, 1, 1]]
    assert from_intensity(np.array([[1]]), at_least=1).tolist() == [[1]]


def test_frequencies_are_of_the_labelled_frames():
    au = np.array([[1, -1, 0], [0, -1, 0], [-1, -1, 0], [0, -1, 0], [0, -1, 0]], np.int8)
    assert np.array_equal(frequencies(au), [0.25, np.nan, 0], equal_nan=True)


def test_inverse_frequency_by_hand():
    # r = 1/2 and 1/4: (1/r) / sum(1/r) * n = 2/6 * 2 and 4/6 * 2
    au = np.array([[1, 1], [1, 0], [0, 0], [0, 0]], np.int8)
    assert inverse_frequency(au) == pytest.approx([2 / 3, 4 / 3])


def test_inverse_frequency_of_an_au_without_positives_or_labels():
    au = np.array([[1, 0, -1], [0, 0, -1]], np.int8)  # r = 1/2, then as if one of two
    assert inverse_frequency(au) == pytest.approx([1, 1, 0])
    assert inverse_frequency(np.full((2, 3), -1, np.int8)).tolist() == [0, 0, 0]


def test_class_weights_are_scikit_learns_balanced_ones():
    au = (np.random.default_rng(0).random((200, 4)) < [0.1, 0.3, 0.5, 0.9]).astype(np.int8)
    ours = class_weights(au)
    for number in range(4):
        theirs = compute_class_weight("balanced", classes=np.array([0, 1]), y=au[:, number])
        assert ours[:, number] == pytest.approx(theirs)


def test_class_weights_at_the_edges_stay_finite():
    au = np.array([[1, 0, -1], [1, 0, -1]], np.int8)
    assert class_weights(au).tolist() == [[1, 1, 0], [1, 1, 0]]


def test_positive_weights_are_negatives_a_positive():
    au = np.array([[1, 0], [0, 0], [0, 0], [0, 0], [-1, -1]], np.int8)
    assert positive_weights(au) == pytest.approx([3, 3])  # the second as if it had one positive
