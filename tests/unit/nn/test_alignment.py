"""Alignment of faces: against least squares, against known transformations, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facscale.nn.alignment import compute_five_points, fit_similarity

SIDE = 48


def turned(points, *, degrees, scale=1.0, shift=(0.0, 0.0)):
    """Points [..., 2] rotated about the origin (x to y), scaled, then shifted."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = scale * torch.tensor([[c, -s], [s, c]], dtype=points.dtype)
    return points @ matrix.T + torch.tensor(shift, dtype=points.dtype)


def face(*, seed=0):
    """Landmarks [68, 2] spread over the image."""
    random = torch.Generator().manual_seed(seed)
    return 8 + (SIDE - 16) * torch.rand(68, 2, generator=random, dtype=torch.float64)


def least_squares(source, target):
    """(a, -b, u; b, a, v) by numpy: two equations a point."""
    left, right = [], []
    for (x, y), (wanted_x, wanted_y) in zip(source, target, strict=True):
        left += [[x, -y, 1, 0], [y, x, 0, 1]]
        right += [wanted_x, wanted_y]
    a, b, u, v = np.linalg.lstsq(np.array(left), np.array(right))[0]
    return [[a, -b, u], [b, a, v]]


def test_the_five_points_by_hand():
    landmarks = torch.stack([torch.arange(68.0), 100 + torch.arange(68.0) ** 2], -1)
    eyes = [sum(100 + k**2 for k in eye) / 6 for eye in (range(36, 42), range(42, 48))]
    expected = [[38.5, eyes[0]], [44.5, eyes[1]], [30, 1000], [48, 2404], [54, 3016]]
    assert compute_five_points(landmarks[None])[0].tolist() == [pytest.approx(point) for point in expected]


def test_fit_similarity_is_least_squares():
    random = torch.Generator().manual_seed(1)
    source, target = 100 * torch.rand(2, 6, 5, 2, generator=random, dtype=torch.float64)
    slow = [least_squares(s, t) for s, t in zip(source.numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(fit_similarity(source, target).numpy(), np.array(slow), rtol=0, atol=1e-10)


def test_a_known_similarity_is_recovered():
    source = face()[None, :5]
    result = fit_similarity(source, turned(source, degrees=30, scale=2, shift=(3, -5)))
    assert result[0].tolist() == [
        pytest.approx([math.sqrt(3), -1, 3]),
        pytest.approx([1, math.sqrt(3), -5]),
    ]


def test_degenerate_points_give_the_identity():
    source = face()[None, :5].repeat(4, 1, 1)
    target = source + 1
    source[0, 2, 0] = target[1, 4, 1] = math.nan
    source[2], target[3] = 7, 7
    still = [[1, 0, 0], [0, 1, 0]]
    assert fit_similarity(source, target).tolist() == [still] * 4
