"""AU heads on regions of a face and on the face as a unit (Yan et al., RTATL, MM 2021, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facscale.nn.rois import crop_rois

DIM = 128  # of an AU's regional feature


class AUOutputs(NamedTuple):
    """Predictions for A AUs in N faces."""

    logits: Tensor  # [N, A]
    regional: Tensor  # features [N, A, 2, DIM], of both sides


class GlobalHead(nn.Module):
    """Predicts AUs from a ResNet's last map alone; the regional features are zero."""

    def __init__(self, dim: int, *, aus: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, aus)

    def forward(self, maps: list[Tensor], centres: Tensor) -> AUOutputs:
        """Take the maps of the four stages, and the AUs' centres [N, A, 2, 2], of which only the number matters."""
        logits = self.layer(maps[-1].mean((2, 3)))
        return AUOutputs(logits, logits.new_zeros(*centres.shape[:3], DIM))


class RegionalHead(nn.Module):
    """Predicts AUs from all maps of a ResNet, each AU around its own two centres, and from the last map as well.

    Squares of the maps, fused from the top down, pass two convolutions of the AU's own. `relation` exchanges
    information between the AUs of each side [2 N, A, DIM]. The larger of the regional and the global logit is the
    prediction.
    """

    def __init__(self, dim: int, *, aus: int, size: int, relation: nn.Module) -> None:
        """`dim`: channels of the last map; the maps before it have 1/2, 1/4 and 1/8 of them. `size`: image side, pixels."""
        super().__init__()
        self.size = size
        self.overall = GlobalHead(dim, aus=aus)
        self.lateral = nn.ModuleList([nn.Conv2d(dim // 2**n, dim, 1) for n in reversed(range(4))])
        self.own = nn.ModuleList([make_au_convolutions(dim, width=dim // 8) for _ in range(aus)])
        self.relation = relation
        self.weight = nn.Parameter(torch.empty(aus, DIM))  # a fully connected layer of its own for each AU
        self.bias = nn.Parameter(torch.zeros(aus))
        nn.init.normal_(self.weight, std=DIM**-0.5)

    def forward(self, maps: list[Tensor], centres: Tensor) -> AUOutputs:
        """Take the maps of the four stages, and the AUs' centres [N, A, 2, 2] in pixels of the image."""
        fused = self.fuse_maps(maps)
        squares = crop_rois(fused, centres.flatten(1, 2), size=self.size, cells=max(3, fused.shape[-1] // 4))
        squares = squares.unflatten(1, centres.shape[1:3])  # [N, A, 2, C, c, c]
        features = [layers(squares[:, au].flatten(0, 1)).unflatten(0, (-1, 2)) for au, layers in enumerate(self.own)]
        sides = torch.stack(features, 2).flatten(0, 1)  # [2 N, A, DIM]: each side of a face is a sequence
        regional = self.relation(sides).unflatten(0, (-1, 2)).transpose(1, 2)
        logits = (regional.mean(2) * self.weight).sum(-1) + self.bias
        return AUOutputs(torch.maximum(logits, self.overall(maps, centres).logits), regional)

    def fuse_maps(self, maps: list[Tensor]) -> Tensor:
        """Add each map, doubled, to the one below it, from the top down: [N, dim, H, W] of the first map."""
        fused: Tensor = self.lateral[-1](maps[-1])
        for lateral, below in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            fused = interpolate(fused, size=below.shape[-2:], mode="nearest") + lateral(below)
        return fused


def make_au_convolutions(inputs: int, *, width: int) -> nn.Sequential:
    """Build the two convolutions of one AU: squares [N, inputs, c, c] -> [N, DIM]."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(9 * 2 * width, DIM),
    )
