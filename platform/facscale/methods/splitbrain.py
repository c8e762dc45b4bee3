"""SplitBrain: from its lightness a network tells an image's colours, from its colours another one its lightness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, mse_loss

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import Encoder
from facscale.nn.colour import ab_bins, lab

SCALE = {"L": 50.0, "ab": 110.0}  # of the channels, to about [-1, 1]


class SplitBrain(Method):
    """Zhang, Isola and Efros, "Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction", CVPR 2017.

    arXiv 1611.09842. In Lab, with X1 = L and X2 = ab, two halves of a network tell each other's channels::

        L = l(F1(X1), X2) + l(F2(X2), X1)                                                          (Eqs. 1 and 2)

    where l is the cross-entropy over quantised values, averaged over the places of the last feature map ("cl,cl"), or
    the squared error ("reg,reg"). The features are both halves' third convolution, as TCAE used them.

    Half AlexNets with BatchNorm, of 48, 128, 192, 192 and 128 channels. Differs from the paper, where TCAE is silent: the
    third convolution is averaged down to `pool` x `pool` places; ab has the squares of side 10 that hold colours of sRGB
    (the paper counts 313).
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        loss: Literal["classification", "regression"] = "classification"
        ab_side: PositiveFloat = 10.0  # of a square of the ab plane
        lightness_bins: PositiveInt = 100
        pool: PositiveInt = 4  # places of the features, each way
        breadth: PositiveFloat = 1.0  # factor of all channels

    config: Config
    encoder: Halves
    colours: Tensor

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.register_buffer("colours", ab_bins(config.ab_side), persistent=False)
        self.encoder = Halves(breadth=config.breadth, pool=config.pool)
        outputs = {"L": len(self.colours), "ab": config.lightness_bins}
        if config.loss == "regression":
            outputs = {"L": 2, "ab": 1}
        c3, c4, c5 = (round(config.breadth * channels) for channels in (192, 192, 128))
        self.tails = nn.ModuleDict(
            {
                seen: nn.Sequential(block(c3, c4, 3), block(c4, c5, 3), nn.Conv2d(c5, told, 1))
                for seen, told in outputs.items()
            }
        )

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """One frame."""
        return {"face": Frames()}

    @trains("encoder", "tails")
    def tell_each_other(self, batch: Batch) -> Losses:
        """L, both ways."""
        colours = lab(batch.face.images[:, 0, 0])
        features = self.encoder.maps(colours)
        told = {seen: tail(features[seen]) for seen, tail in self.tails.items()}
        places = told["L"].shape[-2:]
        lightness, ab = adaptive_avg_pool2d(colours, places).split((1, 2), dim=1)
        if self.config.loss == "regression":
            return {
                "colour": Loss(mse_loss(told["L"], ab / SCALE["ab"])),
                "lightness": Loss(mse_loss(told["ab"], lightness / SCALE["L"] - 1)),
            }
        return {
            "colour": Loss(cross_entropy(told["L"], self.colour_bins(ab))),
            "lightness": Loss(cross_entropy(told["ab"], self.lightness_bins(lightness))),
        }

    def colour_bins(self, ab: Tensor) -> Tensor:
        """The nearest square of each place: [N, 2, h, w] -> int64 [N, h, w]."""
        flat = ab.permute(0, 2, 3, 1).flatten(0, 2)
        return torch.cdist(flat, self.colours.to(flat)).argmin(1).view(ab.shape[0], *ab.shape[2:])

    def lightness_bins(self, lightness: Tensor) -> Tensor:
        """[N, 1, h, w] in [0, 100] -> int64 [N, h, w]."""
        count = self.config.lightness_bins
        return (lightness[:, 0] * count / 100).long().clamp(0, count - 1)


class Halves(Encoder):
    """The first three convolutions of both halves: images [N, 3, S, S] in [0, 1] -> [N, dim]."""

    def __init__(self, *, breadth: float, pool: int) -> None:
        super().__init__()
        c1, c2, c3 = (round(breadth * channels) for channels in (48, 128, 192))
        self.halves = nn.ModuleDict(
            {
                seen: nn.Sequential(
                    block(channels, c1, 11, stride=4),
                    nn.MaxPool2d(3, 2, padding=1),
                    block(c1, c2, 5),
                    nn.MaxPool2d(3, 2, padding=1),
                    block(c2, c3, 3),
                )
                for seen, channels in (("L", 1), ("ab", 2))
            }
        )
        self.pool = pool
        self.dim = 2 * c3 * pool * pool

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, dim]."""
        maps = self.maps(lab(images))
        return adaptive_avg_pool2d(torch.cat([maps["L"], maps["ab"]], 1), self.pool).flatten(1)

    def maps(self, colours: Tensor) -> dict[str, Tensor]:
        """Third convolutions of images in Lab, by what each half sees."""
        lightness, ab = colours.split((1, 2), dim=1)
        given = {"L": lightness / SCALE["L"] - 1, "ab": ab / SCALE["ab"]}
        return {seen: half(given[seen]) for seen, half in self.halves.items()}


def block(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
