"""SplitBrain: a network predicts an image's colours from its lightness, another one its lightness from its colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, mse_loss

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import Encoder
from facscale.nn.colour import build_ab_bins, rgb_to_lab
from facscale.nn.precision import disable_autocast, widen

SCALE = {"L": 50.0, "ab": 110.0}  # divisors that bring the channels to about [-1, 1]


class SplitBrain(Method):
    """Zhang, Isola and Efros, "Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction", CVPR 2017.

    arXiv 1611.09842. In Lab, with X1 = L and X2 = ab, the halves of a network predict each other's channels::

        L = l(F1(X1), X2) + l(F2(X2), X1)                                                          (Eqs. 1 and 2)

    where l is the cross-entropy over quantised values, averaged over the positions of the last feature map ("cl,cl"),
    or the squared error ("reg,reg"). The features are both halves' third convolution, as in TCAE's comparison.

    The halves are half AlexNets of 48, 128, 192, 192 and 128 channels.

    Departures from the paper, whose training has no public code:

    - Every convolution has BatchNorm, as in CMC's half AlexNets; the published networks have none, and their third
      convolution connects all channels, which here each half does within itself. Convolutions are padded to whole maps.
    - ab has the squares of side 10 that contain sRGB colours; the paper counts 313 of them. Classes are not re-weighted.
    - Channels are averaged down to the last map before they are quantised.
    - Images have 224 pixels (jobs/splitbrain.yaml), 227 in the published networks.

    Left open by TCAE, and decided here: how the third convolution was "down-sampled": it is averaged to `pool` x `pool`
    positions. Colours are converted in float32, where the job trains in bfloat16.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        loss: Literal["classification", "regression"] = "classification"
        ab_side: PositiveFloat = 10.0  # of a square of the ab plane
        lightness_bins: PositiveInt = 100
        pool: PositiveInt = 4  # positions of the features, in each direction
        breadth: PositiveFloat = 1.0  # factor of all channels

    config: Config
    encoder: SplitEncoder
    colours: Tensor

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.register_buffer("colours", build_ab_bins(config.ab_side), persistent=False)
        self.encoder = SplitEncoder(breadth=config.breadth, pool=config.pool)
        outputs = {"L": len(self.colours), "ab": config.lightness_bins}
        if config.loss == "regression":
            outputs = {"L": 2, "ab": 1}
        c3, c4, c5 = (round(config.breadth * channels) for channels in (192, 192, 128))
        self.tails = nn.ModuleDict(
            {
                channels: nn.Sequential(make_conv_block(c3, c4, 3), make_conv_block(c4, c5, 3), nn.Conv2d(c5, count, 1))
                for channels, count in outputs.items()
            }
        )

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one frame."""
        return {"face": RandomFrames()}

    @trains("encoder", "tails")
    def predict_channels(self, batch: Batch) -> Losses:
        """Compute L in both directions."""
        lab = rgb_to_lab(batch.face.images[:, 0, 0])
        features = self.encoder.extract_maps(lab)
        predicted = {channels: tail(features[channels]) for channels, tail in self.tails.items()}
        lightness, ab = adaptive_avg_pool2d(lab, predicted["L"].shape[-2:]).split((1, 2), dim=1)
        if self.config.loss == "regression":
            return {
                "colour": Loss(mse_loss(widen(predicted["L"]), ab / SCALE["ab"])),
                "lightness": Loss(mse_loss(widen(predicted["ab"]), lightness / SCALE["L"] - 1)),
            }
        return {
            "colour": Loss(cross_entropy(predicted["L"], self.quantise_colour(ab))),
            "lightness": Loss(cross_entropy(predicted["ab"], self.quantise_lightness(lightness))),
        }

    def quantise_colour(self, ab: Tensor) -> Tensor:
        """Return the nearest square of the ab plane: [N, 2, h, w] -> int64 [N, h, w]."""
        flat = ab.permute(0, 2, 3, 1).flatten(0, 2)
        with disable_autocast(flat):
            return torch.cdist(flat, self.colours.to(flat)).argmin(1).view(ab.shape[0], *ab.shape[2:])

    def quantise_lightness(self, lightness: Tensor) -> Tensor:
        """Return the bin of lightness [N, 1, h, w] in [0, 100]: int64 [N, h, w]."""
        count = self.config.lightness_bins
        return (lightness[:, 0] * count / 100).long().clamp(0, count - 1)


class SplitEncoder(Encoder):
    """The first three convolutions of both halves: images [N, 3, S, S] in [0, 1] -> [N, dim]."""

    def __init__(self, *, breadth: float, pool: int) -> None:
        super().__init__()
        c1, c2, c3 = (round(breadth * channels) for channels in (48, 128, 192))
        self.halves = nn.ModuleDict(
            {
                channels: nn.Sequential(
                    make_conv_block(count, c1, 11, stride=4),
                    nn.MaxPool2d(3, 2, padding=1),
                    make_conv_block(c1, c2, 5),
                    nn.MaxPool2d(3, 2, padding=1),
                    make_conv_block(c2, c3, 3),
                )
                for channels, count in (("L", 1), ("ab", 2))
            }
        )
        self.pool = pool
        self.dim = 2 * c3 * pool * pool

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, dim]."""
        maps = self.extract_maps(rgb_to_lab(images))
        return adaptive_avg_pool2d(torch.cat([maps["L"], maps["ab"]], 1), self.pool).flatten(1)

    def extract_maps(self, lab: Tensor) -> dict[str, Tensor]:
        """Compute the third convolution of each half, by its input channels, from Lab images [N, 3, S, S]."""
        lightness, ab = lab.split((1, 2), dim=1)
        inputs = {"L": lightness / SCALE["L"] - 1, "ab": ab / SCALE["ab"]}
        return {channels: half(inputs[channels]) for channels, half in self.halves.items()}


def make_conv_block(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Build a convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
