"""Alignment of faces by a few of their landmarks, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

# Of iBUG's 68 landmarks: eyes, nose, mouth corners. Slices, since a list of numbers would be copied to the device each time.
FIVE_POINTS = (slice(36, 42), slice(42, 48), slice(30, 31), slice(48, 49), slice(54, 55))


def compute_five_points(landmarks: Tensor) -> Tensor:
    """Centres of both eyes, tip of the nose, corners of the mouth [..., 5, 2], from landmarks [..., 68, 2]."""
    return torch.stack([landmarks[..., part, :].mean(-2) for part in FIVE_POINTS], -2)


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Fit the rotation, scaling and shift [N, 2, 3] that maps source points [N, P, 2] to targets, by least squares.

    With points as complex numbers about their means, the factor a + ib is <s, t> / <s, s>; it is computed in real numbers,
    which exported graphs need. The result is the identity where a point is nan, or where all source points or all target
    points coincide.
    """
    s, t = source.double(), target.double()
    s0, t0 = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
    (sx, sy), (tx, ty) = (s - s0).unbind(-1), (t - t0).unbind(-1)
    square = (sx.square() + sy.square()).sum(1)
    a, b = (sx * tx + sy * ty).sum(1) / square, (sx * ty - sy * tx).sum(1) / square
    is_valid = torch.isfinite(a) & torch.isfinite(b) & ((a != 0) | (b != 0))
    a, b = torch.where(is_valid, a, torch.ones_like(a)), torch.where(is_valid, b, torch.zeros_like(b))
    (x0, y0), (x1, y1) = s0[:, 0].unbind(-1), t0[:, 0].unbind(-1)
    x, y = x1 - (a * x0 - b * y0), y1 - (b * x0 + a * y0)
    x, y = torch.where(is_valid, x, torch.zeros_like(x)), torch.where(is_valid, y, torch.zeros_like(y))
    return torch.stack([torch.stack([a, -b, x], -1), torch.stack([b, a, y], -1)], 1).to(source.dtype)
