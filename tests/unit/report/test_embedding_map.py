"""The picture of an embedding."""

from __future__ import annotations

import numpy as np
import pytest

from facscale.report.embedding_map import plot_embedding_map, project_features, select_balanced_aus


def clusters(count=40, dim=20):
    """Three far clouds."""
    random = np.random.default_rng(0)
    of = np.repeat([0, 1, 2], count)
    return random.normal(size=(3 * count, dim)) + 30 * np.eye(3, dim)[of], of


def test_what_lies_together_stays_together_and_the_map_is_always_the_same():
    features, of = clusters()
    points = project_features(features)
    np.testing.assert_array_equal(points, project_features(features))
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    nearest = (apart + 1e9 * np.eye(len(of))).argmin(axis=1)
    assert (of[nearest] == of).all()


def test_a_collapsed_embedding_still_has_a_map():
    assert np.isfinite(project_features(np.ones((30, 8), np.float32))).all()
    with pytest.raises(ValueError, match="at least 12 frames"):
        project_features(np.ones((11, 8)))


def test_aus_that_divide_the_frames_are_shown():
    au = np.array([[1, 0, -1, 1], [0, 0, -1, 1], [1, 0, 1, 1], [0, 1, 0, 1]] * 4, np.int8)
    assert select_balanced_aus(au) == [0, 1, 2]  # AU of the last column is always there
    figure = plot_embedding_map(
        np.random.default_rng(0).normal(size=(16, 2)),
        identity=np.repeat(["a", "b"], 8),
        au=au,
        aus=(1, 4, 9, 12),
        title="map",
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["2 people", "AU1", "AU4", "AU9"]
    without, with_it = figure.axes[3].collections
    assert (len(without.get_offsets()), len(with_it.get_offsets())) == (4, 4)  # AU9: half is not labelled
