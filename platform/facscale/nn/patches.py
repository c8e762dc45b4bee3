"""Generator and discriminator of small image patches, after DCGAN (Radford et al., 2016)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

INNER_LAYERS = 4  # beside the layer between the vector and the smallest map


class PatchGenerator(nn.Module):
    """Five transposed convolutions: [N, dim] -> patches [N, 3, side, side] in [0, 1]."""

    def __init__(self, dim: int, *, side: int, width: int = 1024) -> None:
        super().__init__()
        sizes = plan_halvings(side)
        channels = [*(width // 2**n for n in range(INNER_LAYERS)), 3]
        layers: list[nn.Module] = [nn.ConvTranspose2d(dim, width, sizes.smallest, bias=False)]
        for number, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
            kernel, stride = (4, 2) if number > INNER_LAYERS - sizes.halvings else (3, 1)
            layers += [nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding=1, bias=number == INNER_LAYERS)]
        self.layers = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """[N, dim] -> [N, 3, side, side]."""
        patches: Tensor = self.layers(features[:, :, None, None])
        return patches


class PatchDiscriminator(nn.Module):
    """Five convolutions: patches [N, 3, side, side] -> logits [N, outputs]."""

    def __init__(self, *, side: int, outputs: int = 1, width: int = 1024) -> None:
        super().__init__()
        sizes = plan_halvings(side)
        channels = [3, *(width // 2**n for n in reversed(range(INNER_LAYERS)))]
        layers: list[nn.Module] = []
        for number, (inputs, after) in enumerate(pairwise(channels)):
            kernel, stride = (4, 2) if number < sizes.halvings else (3, 1)
            layers += [nn.Conv2d(inputs, after, kernel, stride, padding=1, bias=not number)]
            layers += [nn.BatchNorm2d(after)] if number else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, outputs, sizes.smallest), nn.Flatten())

    def forward(self, patches: Tensor) -> Tensor:
        """[N, 3, side, side] -> [N, outputs]."""
        logits: Tensor = self.layers(patches)
        return logits


class Halvings(NamedTuple):
    """How often a side is halved, at most `INNER_LAYERS` times, and the side that remains."""

    halvings: int
    smallest: int


def plan_halvings(side: int) -> Halvings:
    """Halve `side` while it is even: 48 -> 4 times, 3 pixels; 8 -> 3 times, 1 pixel."""
    count = 0
    while count < INNER_LAYERS and side % 2 == 0:
        side, count = side // 2, count + 1
    return Halvings(count, side)
