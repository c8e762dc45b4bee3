"""Face images changed by moving their pixels: convolutional encoders, decoders of displacements, and the sampling.

Displacements are lengths of which the image has 2 from its first to its last pixel, as in torch's `grid_sample`. They,
all positions, and the sampled pixels are float32 under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from facscale.nn.encoder import Encoder
from facscale.nn.precision import HALF_PRECISION, apply_widened, disable_autocast, widen

SLOPE = 0.2  # of LeakyReLU
ENCODER_CHANNELS = (32, 64, 128, 256, 256, 256, 256, 256)  # after each halving of 256 pixels
DECODER_CHANNELS = (256, 256, 256, 256, 128, 64, 32)  # after each doubling but the last


def count_halvings(size: int) -> int:
    """Return how often `size` is halved to one pixel. Raises ValueError unless it is a power of two from 32 to 256."""
    if size not in (32, 64, 128, 256):
        raise ValueError(
            f"data.image_size is {size}, but this encoder halves the image to one pixel: 32, 64, 128 or 256"
        )
    return size.bit_length() - 1


def make_down_block(inputs: int, outputs: int, *, norm: bool = True, activation: bool = True) -> nn.Sequential:
    """Build a 4x4 convolution that halves the image, followed by BatchNorm and LeakyReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)]
    layers += [nn.BatchNorm2d(outputs)] if norm else []
    layers += [nn.LeakyReLU(SLOPE, inplace=True)] if activation else []
    return nn.Sequential(*layers)


def get_encoder_channels(size: int) -> tuple[int, ...]:
    """Return the channels after each halving. Small images use the first layers and the last three."""
    count = count_halvings(size)
    return ENCODER_CHANNELS[: count - 3] + ENCODER_CHANNELS[-3:]


class ConvEncoder(Encoder):
    """Halves the image down to one pixel: [N, 3, size, size] in [0, 1] -> [N, 256], unbounded."""

    def __init__(self, size: int, *, norm_first: bool = True) -> None:
        super().__init__()
        channels = (3, *get_encoder_channels(size))
        last = len(channels) - 2
        self.layers = nn.Sequential(
            *(
                make_down_block(
                    channels[n], channels[n + 1], norm=n < last and (n > 0 or norm_first), activation=n < last
                )
                for n in range(last + 1)
            )
        )
        self.dim = channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, size, size] -> [N, 256]."""
        return self.layers(images).flatten(1)


class Decoder(nn.Module):
    """Concatenated embeddings of a source and a target [N, 2 * 256] -> maps [N, outputs, size, size] in (-1, 1).

    The last convolution and tanh run in float32 under autocast.
    """

    def __init__(self, size: int, *, inputs: int, outputs: int) -> None:
        super().__init__()
        channels = (inputs, *DECODER_CHANNELS[-(count_halvings(size) - 1) :], outputs)
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
        return apply_widened(self.layers[-2:], self.layers[:-2](embeddings[:, :, None, None]))


def identity_grid(size: int, *, like: Tensor) -> Tensor:
    """Return the position of each pixel [2, size, size], x and y from -1 to 1, on the device of `like`.

    It has the dtype of `like`, but at least float32.
    """
    dtype = torch.float32 if like.dtype in HALF_PRECISION else like.dtype
    steps = torch.linspace(-1, 1, size, device=like.device, dtype=dtype)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y])


def clamp_displacements(displacements: Tensor) -> Tensor:
    """Shorten displacements [N, 2, S, S] that would take a pixel from outside the image."""
    grid = identity_grid(displacements.shape[-1], like=displacements)
    return (grid + displacements).clamp(-1, 1) - grid


def warp(images: Tensor, displacements: Tensor) -> Tensor:
    """Take each pixel (x, y) of images [N, 3, S, S] from (x + dx, y + dy), clamped to the image."""
    grid = identity_grid(images.shape[-1], like=displacements)
    return sample_pixels(images, (grid + displacements).clamp(-1, 1))


def sample_pixels(images: Tensor, positions: Tensor) -> Tensor:
    """Sample images [N, 3, S, S] at positions [N, 2, S, S], x and y from -1 to 1, bilinearly."""
    with disable_autocast(images):
        return grid_sample(
            widen(images), widen(positions).permute(0, 2, 3, 1), padding_mode="zeros", align_corners=True
        )


def to_pixels(displacements: Tensor) -> Tensor:
    """Convert displacements [N, 2, S, S] to pixels."""
    return widen(displacements) * (displacements.shape[-1] - 1) / 2
