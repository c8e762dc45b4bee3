"""DeformAE: a face is a texture in a common frame, and the deformation that maps it to the image."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import Encoder
from facscale.nn.displacement import SLOPE, count_halvings, identity_grid, sample_pixels, to_pixels
from facscale.nn.precision import apply_widened, disable_autocast

DENSE = (6, 12, 24, 16)  # convolutions of the encoder's dense blocks, at 1/2, 1/4, 1/8 and 1/16 of 64 pixels
MAX_STEP = 5.0  # the longest step between neighbouring pixels, times the side of the image
ORIGIN = -1.2  # position of the first pixel
INITIAL_DEVIATION = 0.02  # of weights
Dense = Literal["all", "first"]


class DeformAE(Method):
    """Shu et al., "Deforming Autoencoders: Unsupervised Disentangling of Shape and Appearance", ECCV 2018.

    arXiv 1806.06503. An image I is encoded as z, and z as the codes of texture and deformation. Two decoders predict a
    texture T and steps d > 0 between neighbouring pixels; the running sums of the steps are the positions of the
    image's pixels in the texture::

        W   = clamp(cumsum(5 sigmoid(d) / S) - 1.2, -1, 1),   I' = T sampled at W
        L   = mean |I' - I| + l1 sum |grad(W - identity)| + l2 mean (batch mean of (W - identity))^2

    Letters: S pixels a side, l1 `smoothness_weight`, l2 `bias_weight`. The feature is z, as in TCAE's comparison.
    Weights begin as in the published code: N(0, 0.02), and N(1, 0.02) for the scales of BatchNorm. In the deformation's
    decoder the first and the last activation are tanh, all others ReLU.

    Departures from the paper, and from its published code:

    - In the code's dense blocks only the first layer is ever called, and its output doubled for each further layer:
      `dense: first`, which is what TCAE's authors must have trained, who used the released code. By default each layer receives the
      sum of all layers before it, as the blocks are meant.
    - The code has ReLU between the BatchNorm and the first convolution of its input, which cuts off all that is darker
      than the mean: `input_relu: true`. Its variant with InstanceNorm has neither, and is not offered here.
    - The code is for 64 pixels; for larger images, the encoder begins with more halving convolutions and the decoders end
      with more doubling ones, since TCAE, which used 256, does not describe its version.
    - The 3 x 3 transposed convolutions of stride 1 are plain ones, which is the same with mirrored weights.
    - Images are sampled with the corners' centres at -1 and 1, as torch did when the code was written.
    - Faces are cropped at random as for TCAE; the code only resizes them. Positions and warps stay in float32, where
      jobs/deformae.yaml trains in bfloat16.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the published code's values."""

        width: PositiveInt = 32  # channels of the first layer
        latent: PositiveInt = 128  # numbers of z; 512 in TCAE's comparison
        texture: PositiveInt = 16  # numbers of the texture's code
        deformation: PositiveInt = 128  # numbers of the deformation's code
        smoothness_weight: NonNegativeFloat = 1e-6  # l1
        bias_weight: NonNegativeFloat = 1e-2  # l2
        block_length: PositiveFloat = 1.0  # factor of the dense blocks' lengths
        dense: Dense = "all"  # layers of a dense block that run; first: as the published code does
        input_relu: bool = False  # ReLU after the BatchNorm of the input, as the published code has it

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        lengths = tuple(max(1, round(config.block_length * length)) for length in DENSE)
        self.encoder = DenseEncoder(
            facts.image_size,
            width=config.width,
            dim=config.latent,
            lengths=lengths,
            dense=config.dense,
            input_relu=config.input_relu,
        )
        codes = {"texture": config.texture, "deformation": config.deformation}
        self.codes = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(config.latent, size), nn.Sigmoid()) for name, size in codes.items()}
        )
        decoder = partial(DenseDecoder, size=facts.image_size, width=config.width, lengths=lengths, dense=config.dense)
        self.texture_decoder = decoder(inputs=config.texture, outputs=3, outer=nn.ReLU())
        self.deformation_decoder = decoder(inputs=config.deformation, outputs=2, outer=nn.Tanh())
        self.apply(initialise_weights)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one frame."""
        return {"face": RandomFrames()}

    @trains("encoder", "codes", "texture_decoder", "deformation_decoder")
    def rebuild(self, batch: Batch) -> Losses:
        """Compute L."""
        images = batch.face.images[:, 0, 0]
        texture, positions = self.decode(images)
        deformation = positions - identity_grid(images.shape[-1], like=images)
        steps = deformation.diff(dim=3).abs().sum() + deformation.diff(dim=2).abs().sum()
        return {
            "reconstruction": Loss((sample_pixels(texture, positions) - images).abs().mean()),
            "smoothness": Loss(steps, self.config.smoothness_weight),
            "bias": Loss(deformation.mean(0).square().mean(), self.config.bias_weight),
        }

    def decode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return T [N, 3, S, S] in [0, 1], and W [N, 2, S, S] in [-1, 1]: x, then y."""
        z = self.encoder(images)
        texture = self.texture_decoder(self.codes["texture"](z)).clamp(0, 1)
        steps = MAX_STEP / images.shape[-1] * self.deformation_decoder(self.codes["deformation"](z)).sigmoid()
        with disable_autocast(steps):
            positions = torch.stack([steps[:, 0].cumsum(2), steps[:, 1].cumsum(1)], 1) + ORIGIN
        return texture, positions.clamp(-1, 1)

    def visualize(self, batch: Batch) -> Mapping[str, Tensor]:
        """Draw image, texture, deformation, and the reconstructed image."""
        images = batch.face.images[:, 0, 0]
        texture, positions = self.decode(images)
        return {
            "image": images,
            "texture": texture,
            "deformation": to_pixels(positions - identity_grid(images.shape[-1], like=images)),
            "rebuilt": sample_pixels(texture, positions),
        }


def initialise_weights(module: nn.Module) -> None:
    """Draw weights as the published code does: convolutions N(0, 0.02), BatchNorm N(1, 0.02) with shifts of 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, INITIAL_DEVIATION)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, INITIAL_DEVIATION)
        nn.init.zeros_(module.bias)


class DenseBlock(nn.Module):
    """Convolutions, each on the sum of all outputs before it; the number of channels is constant.

    `dense`: "first" runs the first one alone, and doubles its output with each further layer but one, which is what the
    published code computes: there, layers after the first add up outputs without being called.
    """

    def __init__(self, channels: int, *, length: int, dense: Dense = "all") -> None:
        super().__init__()
        count = length if dense == "all" else 1
        self.factor = 1.0 if dense == "all" else 2.0 ** max(0, length - 2)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False))
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape: the output of the last layer."""
        first, *later = self.layers
        output: Tensor = first(x) * self.factor
        total = output
        for layer in later:
            output = layer(total)
            total = total + output
        return output


class DenseEncoder(Encoder):
    """Images [N, 3, size, size] in [0, 1] -> z [N, dim] in (0, 1)."""

    def __init__(
        self,
        size: int,
        *,
        width: int,
        dim: int,
        lengths: tuple[int, ...],
        dense: Dense = "all",
        input_relu: bool = False,
    ) -> None:
        super().__init__()
        slope = nn.LeakyReLU(SLOPE)
        norm = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()) if input_relu else nn.BatchNorm2d(3)
        layers: list[nn.Module] = [norm, nn.Conv2d(3, width, 4, stride=2, padding=1)]
        for _ in range(count_extra_halvings(size)):
            layers += [nn.BatchNorm2d(width), slope, nn.Conv2d(width, width, 4, stride=2, padding=1)]
        channels = width
        for number, length in enumerate(lengths):
            last = number == len(lengths) - 1
            after = dim if last else 2 * channels
            layers += [DenseBlock(channels, length=length, dense=dense), nn.BatchNorm2d(channels), slope]
            layers += [nn.Conv2d(channels, after, 1, bias=False)]
            layers += [nn.AdaptiveMaxPool2d(1) if last else nn.MaxPool2d(2)]
            channels = after
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Sigmoid())
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, size, size] -> z [N, dim]."""
        z: Tensor = self.layers(images)
        return z


class DenseDecoder(nn.Module):
    """A code [N, inputs] -> maps [N, outputs, size, size], unbounded; the last convolution runs in float32 under autocast."""

    def __init__(
        self,
        *,
        size: int,
        width: int,
        lengths: tuple[int, ...],
        inputs: int,
        outputs: int,
        outer: nn.Module,
        dense: Dense = "all",
    ) -> None:
        """`outer`: activation before the first and the last convolution; those between are ReLU."""
        super().__init__()
        start = size // 2 ** (len(lengths) + count_extra_halvings(size))
        channels = width * 2 ** (len(lengths) - 1)
        layers: list[nn.Module] = [
            nn.BatchNorm2d(inputs),
            outer,
            nn.ConvTranspose2d(inputs, channels, start, bias=False),
        ]
        for number, length in enumerate(reversed(lengths)):
            after = channels if number == len(lengths) - 1 else channels // 2
            layers += [DenseBlock(channels, length=length, dense=dense), *make_doubling_layers(channels, after)]
            channels = after
        for _ in range(count_extra_halvings(size)):
            layers += make_doubling_layers(channels, channels)
        layers += [nn.BatchNorm2d(channels), outer, nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, code: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs, size, size]."""
        return apply_widened(self.layers[-1], self.layers[:-1](code[:, :, None, None]))


def make_doubling_layers(inputs: int, outputs: int) -> list[nn.Module]:
    """Build BatchNorm, ReLU, and a transposed convolution that doubles the map."""
    return [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]


def count_extra_halvings(size: int) -> int:
    """Return how often `size` is halved down to 64 pixels. Raises ValueError unless it is 32, 64, 128 or 256."""
    return max(0, count_halvings(size) - 6)
