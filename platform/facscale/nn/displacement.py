"""Faces changed by moving their pixels: convolutional encoders, decoders of displacements, and the sampling itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from facscale.nn.encoder import Encoder

SLOPE = 0.2  # of LeakyReLU
DOWN = (32, 64, 128, 256, 256, 256, 256, 256)  # channels after each halving of 256 pixels
UP = (256, 256, 256, 256, 128, 64, 32)  # and after each doubling but the last


def halvings(size: int) -> int:
    """How often `size` pixels are halved to one. Raises ValueError unless it is a power of two from 32 to 256."""
    if size not in (32, 64, 128, 256):
        raise ValueError(
            f"data.image_size is {size}, but this encoder halves the image to one pixel: 32, 64, 128 or 256"
        )
    return size.bit_length() - 1


def down(inputs: int, outputs: int, *, norm: bool = True, activation: bool = True) -> nn.Sequential:
    """A 4x4 convolution that halves the image, BatchNorm, LeakyReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)]
    layers += [nn.BatchNorm2d(outputs)] if norm else []
    layers += [nn.LeakyReLU(SLOPE, inplace=True)] if activation else []
    return nn.Sequential(*layers)


def widths(size: int) -> tuple[int, ...]:
    """Channels after each halving. Small images pass the first layers and the last ones, fewer in between."""
    count = halvings(size)
    return DOWN[: count - 3] + DOWN[-3:]


class ConvEncoder(Encoder):
    """Halves the image down to one pixel: [N, 3, size, size] in [0, 1] -> [N, 256], whatever sign."""

    def __init__(self, size: int, *, norm_first: bool = True) -> None:
        super().__init__()
        channels = (3, *widths(size))
        last = len(channels) - 2
        self.layers = nn.Sequential(
            *(
                down(channels[n], channels[n + 1], norm=n < last and (n > 0 or norm_first), activation=n < last)
                for n in range(last + 1)
            )
        )
        self.dim = channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, size, size] -> [N, 256]."""
        return self.layers(images).flatten(1)


class Decoder(nn.Module):
    """Embeddings of a source and a target, side by side [N, 2 * 256] -> maps [N, outputs, size, size] in (-1, 1)."""

    def __init__(self, size: int, *, inputs: int, outputs: int) -> None:
        super().__init__()
        channels = (inputs, *UP[-(halvings(size) - 1) :], outputs)
        layers: list[nn.Module] = [nn.ReLU()]
        for n in range(len(channels) - 1):
            layers += [
                nn.Upsample(scale_factor=2, mode="bilinear"),
                nn.Conv2d(channels[n], channels[n + 1], 3, padding=1),
            ]
            if n < len(channels) - 2:
                layers += [nn.BatchNorm2d(channels[n + 1]), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, embeddings: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs, size, size]."""
        maps: Tensor = self.layers(embeddings[:, :, None, None])
        return maps


def identity_grid(size: int, *, like: Tensor) -> Tensor:
    """Where each pixel is taken from when nothing moves: [2, size, size], x and y from -1 to 1."""
    steps = torch.linspace(-1, 1, size, device=like.device, dtype=like.dtype)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y])


def within(displacements: Tensor) -> Tensor:
    """Displacements [N, 2, S, S] cut so that nothing is taken from outside the image."""
    grid = identity_grid(displacements.shape[-1], like=displacements)
    return (grid + displacements).clamp(-1, 1) - grid


def moved(images: Tensor, displacements: Tensor) -> Tensor:
    """Images [N, 3, S, S] with each pixel (x, y) taken from (x + dx, y + dy); S pixels are 2 long."""
    return taken(images, (identity_grid(images.shape[-1], like=displacements) + displacements).clamp(-1, 1))


def taken(images: Tensor, places: Tensor) -> Tensor:
    """Images [N, 3, S, S] at the given places [N, 2, S, S], x and y from -1 to 1."""
    return grid_sample(images, places.permute(0, 2, 3, 1), padding_mode="zeros", align_corners=True)


def in_pixels(displacements: Tensor) -> Tensor:
    """Displacements [N, 2, S, S], from lengths of which the image has 2 to pixels."""
    return displacements * (displacements.shape[-1] - 1) / 2
