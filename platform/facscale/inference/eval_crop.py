"""Evaluation's centre crop of stored faces as a module without loops or branches on data, which exported graphs can hold."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from facscale.data.augment import SHRINK_BEFORE


class EvalCrop(nn.Module):
    """Stored faces [N, 3, S, S], 0 to 255 -> the network's input [N, 3, s, s] in [0, 1].

    The same as `augment.apply` with `augment.eval_params`: a strong reduction averages areas first, then the middle of the
    image is sampled bilinearly.
    """

    grid: Tensor  # [1, s, s, 2]
    areas: Tensor  # [side, S]: each row averages the pixels of an area

    def __init__(self, *, stored: int, share: float, size: int) -> None:
        """`stored`: S; `share`: side of the crop as a share of S; `size`: s."""
        super().__init__()
        self.stored = stored
        matrix = torch.tensor([[[share, 0.0, 0.0], [0.0, share, 0.0]]])
        grid = functional.affine_grid(matrix, [1, 3, size, size], align_corners=False)
        self.register_buffer("grid", grid, persistent=False)
        factor = int(SHRINK_BEFORE * stored / size)
        self.has_areas = factor > 1
        areas = _make_areas(stored, stored // factor) if self.has_areas else torch.empty(0, stored)
        self.register_buffer("areas", areas, persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """[N, 3, s, s] float32. Raises ValueError for faces of another size than S x S."""
        if faces.ndim != 4 or tuple(faces.shape[1:]) != (3, self.stored, self.stored):
            raise ValueError(
                f"faces must be [N, 3, {self.stored}, {self.stored}], the crops that this detector learned from, not "
                f"{list(faces.shape)}"
            )
        images = self.reduce(faces)
        grid = self.grid.expand(faces.shape[0], -1, -1, -1)  # `len` would fix the size of an exported batch
        return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False).clamp(0, 1)

    def reduce(self, faces: Tensor) -> Tensor:
        """Scale faces [N, 3, S, S] to [0, 1] and, where the crop is much smaller than they are, average areas."""
        images = faces.float() / 255
        return self.areas @ images @ self.areas.T if self.has_areas else images


def _make_areas(stored: int, side: int) -> Tensor:
    """Build the matrix [side, stored] of torch's interpolation by areas, which may share a pixel with their neighbours."""
    areas = torch.zeros(side, stored)
    for row in range(side):
        first, end = row * stored // side, math.ceil((row + 1) * stored / side)
        areas[row, first:end] = 1 / (end - first)
    return areas
