"""Small pictures made from a vector, and judged: the generator and discriminator of DCGAN (Radford et al., 2016)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

BETWEEN = 4  # layers beside the one that makes a vector of the smallest map, or the reverse


class PatchGenerator(nn.Module):
    """Five transposed convolutions: [N, dim] -> pictures [N, 3, side, side] in [0, 1]."""

    def __init__(self, dim: int, *, side: int, width: int = 1024) -> None:
        super().__init__()
        sizes = halved(side)
        channels = [*(width // 2**n for n in range(BETWEEN)), 3]
        layers: list[nn.Module] = [nn.ConvTranspose2d(dim, width, sizes.smallest, bias=False)]
        for number, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
            kernel, stride = (4, 2) if number > BETWEEN - sizes.halvings else (3, 1)
            layers += [nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding=1, bias=number == BETWEEN)]
        self.layers = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """[N, dim] -> [N, 3, side, side]."""
        pictures: Tensor = self.layers(features[:, :, None, None])
        return pictures


class PatchJudge(nn.Module):
    """Five convolutions: pictures [N, 3, side, side] -> logits [N, outputs]."""

    def __init__(self, *, side: int, outputs: int = 1, width: int = 1024) -> None:
        super().__init__()
        sizes = halved(side)
        channels = [3, *(width // 2**n for n in reversed(range(BETWEEN)))]
        layers: list[nn.Module] = []
        for number, (inputs, after) in enumerate(pairwise(channels)):
            kernel, stride = (4, 2) if number < sizes.halvings else (3, 1)
            layers += [nn.Conv2d(inputs, after, kernel, stride, padding=1, bias=not number)]
            layers += [nn.BatchNorm2d(after)] if number else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, outputs, sizes.smallest), nn.Flatten())

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, 3, side, side] -> [N, outputs]."""
        logits: Tensor = self.layers(pictures)
        return logits


class Halved(NamedTuple):
    """How often a side is halved, at most `BETWEEN` times, and what is left of it."""

    halvings: int
    smallest: int


def halved(side: int) -> Halved:
    """48 -> 4 times, 3 pixels; 8 -> 3 times, 1 pixel."""
    count = 0
    while count < BETWEEN and side % 2 == 0:
        side, count = side // 2, count + 1
    return Halved(count, side)
