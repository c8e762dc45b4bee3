"""CIE Lab (D65), in which lightness and colour are apart."""

from __future__ import annotations

import torch
from torch import Tensor

# sRGB primaries to XYZ, divided by D65's white point (IEC 61966-2-1)
TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
LINEAR, CUT = 0.04045, 0.008856  # below these, sRGB's gamma and the cube root are straight lines


def lab(images: Tensor) -> Tensor:
    """sRGB [N, 3, ...] in [0, 1] -> L in [0, 100], a and b in about [-110, 110], the same shape."""
    linear = torch.where(images > LINEAR, ((images + 0.055) / 1.055).clamp_min(0) ** 2.4, images / 12.92)
    xyz = torch.einsum("oc,nc...->no...", torch.tensor(TO_XYZ, dtype=images.dtype, device=images.device), linear)
    f = torch.where(xyz > CUT, xyz.clamp_min(CUT) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def ab_bins(side: float) -> Tensor:
    """Centres [n, 2] of the squares of the ab plane that hold colours of sRGB; a grid with a centre at grey."""
    levels = torch.linspace(0, 1, 52, dtype=torch.float64)
    cube = torch.cartesian_prod(levels, levels, levels)[:, :, None]
    return (lab(cube)[:, 1:, 0] / side).round().unique(dim=0).mul(side).float()
