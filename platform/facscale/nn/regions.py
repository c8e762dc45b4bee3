"""AUs told from regions of a face and from all of it (Yan et al., RTATL, MM 2021, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facscale.nn.rois import cut

DIM = 128  # of an AU's regional feature


class Seen(NamedTuple):
    """What is told of A AUs in N faces."""

    logits: Tensor  # [N, A]
    regional: Tensor  # [N, A, 2, DIM], of both sides


class Overall(nn.Module):
    """AUs from a ResNet's last map alone; nothing is told of regions."""

    def __init__(self, dim: int, *, aus: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, aus)

    def forward(self, maps: list[Tensor], places: Tensor) -> Seen:
        """The four stages' maps and the AUs' centres [N, A, 2, 2], of which only the number counts."""
        logits = self.layer(maps[-1].mean((2, 3)))
        return Seen(logits, logits.new_zeros(*places.shape[:3], DIM))


class Regions(nn.Module):
    """AUs from all of a ResNet's maps, each about its own two centres, and from the last map as well.

    Squares of the maps, fused from the top down, pass two convolutions of the AU's own; `relation` lets the AUs of a
    side [2 N, A, DIM] learn of each other. The larger of the regional and the overall logit counts.
    """

    def __init__(self, dim: int, *, aus: int, size: int, relation: nn.Module) -> None:
        """`dim`: channels of the last map; those before it have a half, a 4th and an 8th. `size`: of the image, pixels."""
        super().__init__()
        self.size = size
        self.overall = Overall(dim, aus=aus)
        self.lateral = nn.ModuleList([nn.Conv2d(dim // 2**n, dim, 1) for n in reversed(range(4))])
        self.own = nn.ModuleList([own_convolutions(dim, width=dim // 8) for _ in range(aus)])
        self.relation = relation
        self.weight = nn.Parameter(torch.empty(aus, DIM))  # a fully connected layer of its own for each AU
        self.bias = nn.Parameter(torch.zeros(aus))
        nn.init.normal_(self.weight, std=DIM**-0.5)

    def forward(self, maps: list[Tensor], places: Tensor) -> Seen:
        """The four stages' maps and the AUs' centres [N, A, 2, 2] in pixels of the image."""
        fused = self.fused(maps)
        squares = cut(fused, places.flatten(1, 2), size=self.size, cells=max(3, fused.shape[-1] // 4))
        squares = squares.unflatten(1, places.shape[1:3])  # [N, A, 2, C, c, c]
        features = [layers(squares[:, au].flatten(0, 1)).unflatten(0, (-1, 2)) for au, layers in enumerate(self.own)]
        sides = torch.stack(features, 2).flatten(0, 1)  # [2 N, A, DIM]: each side of a face is a sequence
        regional = self.relation(sides).unflatten(0, (-1, 2)).transpose(1, 2)
        local = (regional.mean(2) * self.weight).sum(-1) + self.bias
        return Seen(torch.maximum(local, self.overall(maps, places).logits), regional)

    def fused(self, maps: list[Tensor]) -> Tensor:
        """From the top down: each map, doubled, is added to the one below it. [N, dim, H, W] of the first."""
        found: Tensor = self.lateral[-1](maps[-1])
        for lateral, below in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            found = interpolate(found, size=below.shape[-2:], mode="nearest") + lateral(below)
        return found


def own_convolutions(inputs: int, *, width: int) -> nn.Sequential:
    """An AU's own two convolutions: squares [N, inputs, c, c] -> [N, DIM]."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 2 * width, DIM),
    )  # fmt: skip
