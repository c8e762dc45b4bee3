"""Small pictures made from a vector, and judged: the generator and discriminator of DCGAN (Radford et al., 2016)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

HALVINGS = 4


class PatchGenerator(nn.Module):
    """Five transposed convolutions: [N, dim] -> pictures [N, 3, side, side] in [0, 1]; side is a multiple of 16."""

    def __init__(self, dim: int, *, side: int, width: int = 1024) -> None:
        super().__init__()
        channels = [width // 2**n for n in range(HALVINGS)]
        layers: list[nn.Module] = [nn.ConvTranspose2d(dim, width, smallest(side), bias=False)]
        for inputs, outputs in pairwise(channels):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(channels[-1]), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], 3, 4, 2, padding=1), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """[N, dim] -> [N, 3, side, side]."""
        pictures: Tensor = self.layers(features[:, :, None, None])
        return pictures


class PatchJudge(nn.Module):
    """Five convolutions: pictures [N, 3, side, side] -> logits [N, outputs]."""

    def __init__(self, *, side: int, outputs: int = 1, width: int = 1024) -> None:
        super().__init__()
        channels = [width // 2**n for n in reversed(range(HALVINGS))]
        layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for inputs, after in pairwise(channels):
            layers += [nn.Conv2d(inputs, after, 4, 2, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, outputs, smallest(side)), nn.Flatten())

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, 3, side, side] -> [N, outputs]."""
        logits: Tensor = self.layers(pictures)
        return logits


def smallest(side: int) -> int:
    """What four halvings leave of `side` pixels. Raises ValueError where they do not come out even."""
    if side % 2**HALVINGS:
        raise ValueError(f"patches of {side} pixels cannot be halved {HALVINGS} times; take a multiple of 16")
    return side // 2**HALVINGS
