"""Faces laid over one another by a few of their landmarks, on whatever device they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

FIVE = (
    (36, 37, 38, 39, 40, 41),
    (42, 43, 44, 45, 46, 47),
    (30,),
    (48,),
    (54,),
)  # of iBUG's 68: eyes, nose, mouth corners


def five_points(landmarks: Tensor) -> Tensor:
    """Centres of both eyes, tip of the nose, corners of the mouth [..., 5, 2], from landmarks [..., 68, 2]."""
    return torch.stack([landmarks[..., part, :].mean(-2) for part in FIVE], -2)


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """The rotation, scaling and shift that brings points [N, P, 2] nearest to others in the least squares: [N, 2, 3].

    With points as complex numbers about their means, the factor is <s, t> / <s, s>. Where a point is nan, or all points
    of the source coincide, nothing moves.
    """
    s, t = (torch.view_as_complex(points.double().contiguous()) for points in (source, target))
    s0, t0 = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
    factor = ((s - s0).conj() * (t - t0)).sum(1) / (s - s0).abs().square().sum(1)
    shift = t0[:, 0] - factor * s0[:, 0]
    there = factor.isfinite() & shift.isfinite() & (factor.abs() > 0)
    a, b = torch.where(there, factor, 1), torch.where(there, shift, 0)
    rows = [torch.stack([a.real, -a.imag, b.real], -1), torch.stack([a.imag, a.real, b.imag], -1)]
    return torch.stack(rows, 1).to(source.dtype)


def laid_over(images: Tensor, landmarks: Tensor, *, onto: Tensor) -> Tensor:
    """Images [N, C, S, S] moved so that their five points lie on those of `onto`; both landmarks [N, 68, 2] in pixels.

    What lies outside is filled by reflection.
    """
    size = images.shape[-1]
    with torch.autocast(images.device.type, enabled=False):  # in bfloat16 places would be wrong by half a pixel
        back = similarity(five_points(onto), five_points(landmarks))  # where each output pixel is taken from
        linear, shift = back[..., :2], back[..., 2]
        centre = (size - 1) / 2  # pixels p are (p - centre) * 2 / size in grid_sample's coordinates
        offset = (linear @ shift.new_full((2,), centre) + shift - centre) * 2 / size
        grid = affine_grid(torch.cat([linear, offset[..., None]], -1), list(images.shape), align_corners=False)
    return grid_sample(images, grid.to(images.dtype), padding_mode="reflection", align_corners=False)
