"""Alignment of faces: against least squares, against known transformations, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facscale.nn.alignment import align_faces, compute_five_points, fit_similarity

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


def pattern(points):
    """A smooth image, sampled at points [..., 2]: three channels [3, ...]."""
    x, y = points.unbind(-1)
    return torch.stack([(x / 7).sin() * (y / 9).cos(), (x / 11 + y / 8).sin(), ((x - y) / 10).cos()])


def pixels():
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return torch.stack([x, y], -1).double()


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


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 1, (3.5, -2.25)), (12, 1, (4, -6)), (-9, 1.2, (2, -5))])
def test_a_known_similarity_is_undone(degrees, scale, shift):
    """The moved image at A p equals the original at p, and so do its landmarks."""
    movement = {"degrees": degrees, "scale": scale, "shift": shift}
    back = turned(pixels() - torch.tensor(shift, dtype=torch.float64), degrees=-degrees, scale=1 / scale)
    still, moved = pattern(pixels()), pattern(back)
    result = align_faces(moved[None], turned(face(), **movement)[None], onto=face()[None])[0]
    taken = turned(pixels(), **movement)
    inside = ((taken >= 0) & (taken <= SIDE - 1)).all(-1)
    assert inside.float().mean() > 0.5
    assert (moved - still)[:, inside].abs().mean() > 0.1
    assert (result - still)[:, inside].abs().max() < 0.01  # bilinear between pixels


def test_shifts_by_whole_pixels_and_quarter_turns_are_exact():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, SIDE, SIDE, generator=random, dtype=torch.float64)
    onto = face().repeat(2, 1, 1)
    middle = torch.tensor([(SIDE - 1) / 2] * 2, dtype=torch.float64)
    landmarks = torch.stack([onto[0] + torch.tensor([3, -2]), turned(onto[1] - middle, degrees=90) + middle])
    shifted, rotated = align_faces(images, landmarks, onto=onto)
    by_hand = torch.empty(3, SIDE, SIDE, dtype=torch.float64)  # reflected at the outer edge of the border's pixels
    for y in range(SIDE):
        for x in range(SIDE):
            from_x, from_y = x + 3, y - 2
            from_x = 2 * SIDE - 1 - from_x if from_x >= SIDE else from_x
            from_y = -1 - from_y if from_y < 0 else from_y
            by_hand[:, y, x] = images[0, :, from_y, from_x]
    torch.testing.assert_close(shifted, by_hand)
    corner, right = rotated[:, 0, 0], rotated[:, 0, 5]  # x goes to y: the first row is taken from the last column
    torch.testing.assert_close(torch.stack([corner, right]), images[1, :, [0, 5], SIDE - 1].T)


def test_an_image_with_unknown_landmarks_is_unchanged():
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    onto = face().float().repeat(3, 1, 1)
    landmarks = onto + 4
    landmarks[0], onto[1] = math.nan, math.nan
    result = align_faces(images, landmarks, onto=onto)
    torch.testing.assert_close(result[:2], images[:2])
    torch.testing.assert_close(result[2, :, :-4, :-4], images[2, :, 4:, 4:], atol=1e-4, rtol=0)


def test_autocast_does_not_make_positions_coarse():
    images = pattern(8 * pixels())[None].float()
    landmarks = turned(face(), degrees=7, shift=(1, 2))[None].float()
    plain = align_faces(images, landmarks, onto=face()[None].float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(align_faces(images, landmarks, onto=face()[None].float()), plain)
