"""Conversion of sRGB to CIE Lab (white point D65), which separates lightness from colour."""

from __future__ import annotations

import torch
from torch import Tensor

from facscale.nn.constants import cache_constant
from facscale.nn.precision import disable_autocast, widen

# sRGB primaries to XYZ, divided by D65's white point (IEC 61966-2-1)
RGB_TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
SRGB_LINEAR_BELOW = 0.04045  # the gamma curve of sRGB is a straight line below this value
LAB_LINEAR_BELOW = 0.008856  # the cube root of Lab is a straight line below this value


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB [N, 3, ...] in [0, 1] -> L in [0, 100], a and b in about [-110, 110], the same shape; float32 under autocast."""
    rgb = widen(images)
    linear = torch.where(rgb > SRGB_LINEAR_BELOW, ((rgb + 0.055) / 1.055).clamp_min(0) ** 2.4, rgb / 12.92)
    with disable_autocast(images):
        xyz = torch.einsum("oc,nc...->no...", _get_xyz_matrix(rgb.device, rgb.dtype), linear)
    f = torch.where(xyz > LAB_LINEAR_BELOW, xyz.clamp_min(LAB_LINEAR_BELOW) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@cache_constant
def _get_xyz_matrix(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return RGB_TO_XYZ [3, 3], made once on each device: copying it there for each batch would make the host wait."""
    return torch.tensor(RGB_TO_XYZ, dtype=dtype, device=device)


def build_ab_bins(side: float) -> Tensor:
    """Return the centres [n, 2] of those squares of the ab plane that contain sRGB colours.

    The squares form a grid of the given `side`; one of them has its centre at grey (0, 0).
    """
    levels = torch.linspace(0, 1, 52, dtype=torch.float64, device="cpu")
    cube = torch.cartesian_prod(levels, levels, levels)[:, :, None]
    return (rgb_to_lab(cube)[:, 1:, 0] / side).round().unique(dim=0).mul(side).float()
