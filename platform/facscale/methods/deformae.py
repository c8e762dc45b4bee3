"""DeformAE: a face is a texture in a common frame and the deformation that brings it into the image."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import Encoder
from facscale.nn.displacement import SLOPE, halvings, identity_grid, in_pixels, taken

DENSE = (6, 12, 24, 16)  # convolutions of the encoder's dense blocks, at 1/2, 1/4, 1/8 and 1/16 of 64 pixels
STEP = 5.0  # the longest step between two neighbouring pixels, in shares of the image
ORIGIN = -1.2  # where the first one stands


class DeformAE(Method):
    """Shu et al., "Deforming Autoencoders: Unsupervised Disentangling of Shape and Appearance", ECCV 2018.

    arXiv 1806.06503. An image I is encoded as z, and z as the codes of texture and deformation; two decoders tell a
    texture T and steps d > 0 between neighbouring pixels, whose running sums are where each pixel of the image lies in
    the texture::

        W   = clamp(cumsum(5 sigmoid(d) / S) - 1.2, -1, 1),   I' = T taken at W
        L   = mean |I' - I| + l1 sum |grad(W - identity)| + l2 mean (batch mean of (W - identity))^2

    Letters: S pixels a side, l1 `smoothness_weight`, l2 `bias_weight`. The feature is z, as TCAE used it.

    Differs from the published code: in its dense blocks only the first layer is ever called; here each one sees the sum of
    all layers before it, as the blocks say. It knows 64 pixels; larger images are halved by more convolutions at first
    and doubled by more at last, since TCAE, which used 256, does not tell how.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the published code's values."""

        width: PositiveInt = 32  # channels of the first layer
        latent: PositiveInt = 128  # numbers of z; 512 in TCAE's comparison
        texture: PositiveInt = 16  # numbers of the texture's code
        deformation: PositiveInt = 128  # and of the deformation's
        smoothness_weight: NonNegativeFloat = 1e-6  # l1
        bias_weight: NonNegativeFloat = 1e-2  # l2
        block_length: PositiveFloat = 1.0  # factor of the dense blocks' lengths

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        lengths = tuple(max(1, round(config.block_length * length)) for length in DENSE)
        self.encoder = DenseEncoder(facts.image_size, width=config.width, dim=config.latent, lengths=lengths)
        codes = {"texture": config.texture, "deformation": config.deformation}
        self.codes = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(config.latent, size), nn.Sigmoid()) for name, size in codes.items()}
        )
        decoder = partial(DenseDecoder, size=facts.image_size, width=config.width, lengths=lengths)
        self.texture_decoder = decoder(inputs=config.texture, outputs=3, activation=nn.ReLU())
        self.deformation_decoder = decoder(inputs=config.deformation, outputs=2, activation=nn.Tanh())

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """One frame."""
        return {"face": Frames()}

    @trains("encoder", "codes", "texture_decoder", "deformation_decoder")
    def rebuild(self, batch: Batch) -> Losses:
        """L."""
        images = batch.face.images[:, 0, 0]
        texture, where = self.parts(images)
        bent = where - identity_grid(images.shape[-1], like=images)
        steps = bent.diff(dim=3).abs().sum() + bent.diff(dim=2).abs().sum()
        return {
            "reconstruction": Loss((taken(texture, where) - images).abs().mean()),
            "smoothness": Loss(steps, self.config.smoothness_weight),
            "bias": Loss(bent.mean(0).square().mean(), self.config.bias_weight),
        }

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """T [N, 3, S, S] in [0, 1], and W [N, 2, S, S] in [-1, 1]: x, then y."""
        z = self.encoder(images)
        texture = self.texture_decoder(self.codes["texture"](z)).clamp(0, 1)
        steps = STEP / images.shape[-1] * self.deformation_decoder(self.codes["deformation"](z)).sigmoid()
        where = torch.stack([steps[:, 0].cumsum(2), steps[:, 1].cumsum(1)], 1) + ORIGIN
        return texture, where.clamp(-1, 1)

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Image, texture, deformation, and the image rebuilt."""
        images = batch.face.images[:, 0, 0]
        texture, where = self.parts(images)
        bent = in_pixels(where - identity_grid(images.shape[-1], like=images))
        return {"image": images, "texture": texture, "deformation": bent, "rebuilt": taken(texture, where)}


class DenseBlock(nn.Module):
    """Convolutions that each see the sum of all outputs before them; the channels stay."""

    def __init__(self, channels: int, *, length: int, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(channels), activation, nn.Conv2d(channels, channels, 3, padding=1, bias=False))
            for _ in range(length)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape: what the last layer says."""
        first, *others = self.layers
        found: Tensor = first(x)
        so_far = found
        for layer in others:
            found = layer(so_far)
            so_far = so_far + found
        return found


class DenseEncoder(Encoder):
    """Images [N, 3, size, size] in [0, 1] -> z [N, dim] in (0, 1)."""

    def __init__(self, size: int, *, width: int, dim: int, lengths: tuple[int, ...]) -> None:
        super().__init__()
        slope = nn.LeakyReLU(SLOPE)
        layers: list[nn.Module] = [nn.BatchNorm2d(3), nn.Conv2d(3, width, 4, stride=2, padding=1)]
        for _ in range(extra_halvings(size)):
            layers += [nn.BatchNorm2d(width), slope, nn.Conv2d(width, width, 4, stride=2, padding=1)]
        channels = width
        for number, length in enumerate(lengths):
            last = number == len(lengths) - 1
            after = dim if last else 2 * channels
            layers += [DenseBlock(channels, length=length, activation=nn.ReLU()), nn.BatchNorm2d(channels), slope]
            layers += [nn.Conv2d(channels, after, 1, bias=False)]
            layers += [nn.AdaptiveMaxPool2d(1) if last else nn.MaxPool2d(2)]
            channels = after
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Sigmoid())
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, size, size] -> z."""
        z: Tensor = self.layers(images)
        return z


class DenseDecoder(nn.Module):
    """A code [N, inputs] -> maps [N, outputs, size, size], whatever range."""

    def __init__(
        self, *, size: int, width: int, lengths: tuple[int, ...], inputs: int, outputs: int, activation: nn.Module
    ) -> None:
        super().__init__()
        start = size // 2 ** (len(lengths) + extra_halvings(size))
        channels = width * 2 ** (len(lengths) - 1)
        layers: list[nn.Module] = [
            nn.BatchNorm2d(inputs), activation, nn.ConvTranspose2d(inputs, channels, start, bias=False),
        ]  # fmt: skip
        for number, length in enumerate(reversed(lengths)):
            after = channels if number == len(lengths) - 1 else channels // 2
            layers += [
                DenseBlock(channels, length=length, activation=activation),
                *doubling(channels, after, activation),
            ]
            channels = after
        for _ in range(extra_halvings(size)):
            layers += doubling(channels, channels, activation)
        layers += [nn.BatchNorm2d(channels), activation, nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, code: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs, size, size]."""
        maps: Tensor = self.layers(code[:, :, None, None])
        return maps


def doubling(inputs: int, outputs: int, activation: nn.Module) -> list[nn.Module]:
    """BatchNorm, activation, and a transposed convolution that doubles the map."""
    return [nn.BatchNorm2d(inputs), activation, nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]


def extra_halvings(size: int) -> int:
    """Beyond 64 pixels. Raises ValueError for what is not 32, 64, 128 or 256 pixels."""
    return max(0, halvings(size) - 6)
