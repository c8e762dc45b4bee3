"""Alignment of faces by a few of their landmarks, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

FIVE_POINTS = (  # of iBUG's 68 landmarks: eyes, nose, mouth corners
    (36, 37, 38, 39, 40, 41),
    (42, 43, 44, 45, 46, 47),
    (30,),
    (48,),
    (54,),
)


def compute_five_points(landmarks: Tensor) -> Tensor:
    """Centres of both eyes, tip of the nose, corners of the mouth [..., 5, 2], from landmarks [..., 68, 2]."""
    return torch.stack([landmarks[..., indices, :].mean(-2) for indices in FIVE_POINTS], -2)


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Fit the rotation, scaling and shift [N, 2, 3] that maps source points [N, P, 2] to targets, by least squares.

    With points as complex numbers about their means, the factor is <s, t> / <s, s>. The result is the identity where a
    point is nan, or where all source points or all target points coincide.
    """
    s, t = (torch.view_as_complex(points.double().contiguous()) for points in (source, target))
    s0, t0 = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
    factor = ((s - s0).conj() * (t - t0)).sum(1) / (s - s0).abs().square().sum(1)
    shift = t0[:, 0] - factor * s0[:, 0]
    is_valid = factor.isfinite() & shift.isfinite() & (factor.abs() > 0)
    a, b = torch.where(is_valid, factor, 1), torch.where(is_valid, shift, 0)
    rows = [torch.stack([a.real, -a.imag, b.real], -1), torch.stack([a.imag, a.real, b.imag], -1)]
    return torch.stack(rows, 1).to(source.dtype)
