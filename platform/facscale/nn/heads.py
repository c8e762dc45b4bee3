"""Heads on an encoder: projection heads, which are discarded after training, and the linear probe for AUs."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from facscale.nn.precision import WidenedSequential


def projection_head(*dims: int) -> nn.Sequential:
    """Build fully connected layers dims[0] -> dims[1] -> ... with ReLU between them: [N, dims[0]] -> [N, dims[-1]].

    Under autocast they stay in float32: their outputs' small distances, and similarities over a temperature, are trained.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(dims):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return WidenedSequential(*layers[:-1])


def normalised_head(*dims: int, last_norm: bool = True, last_affine: bool = True) -> nn.Sequential:
    """Build linear layers without bias, BatchNorm after each and ReLU between: [N, dims[0]] -> [N, dims[-1]].

    `last_norm`: also after the last layer, with scale and shift only if `last_affine`. In float32 under autocast, as
    `projection_head`.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(dims), start=2):
        layers.append(nn.Linear(inputs, outputs, bias=False))
        if number < len(dims):
            layers += [nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        elif last_norm:
            layers.append(nn.BatchNorm1d(outputs, affine=last_affine))
    return WidenedSequential(*layers)


MAX_INTENSITY = 5.0  # of an AU in FACS, E


def to_intensities(logits: Tensor) -> Tensor:
    """5 sigmoid(logits), in [0, 5] (Chang et al., LibreFace, WACV 2024)."""
    return MAX_INTENSITY * logits.sigmoid()


class LinearProbe(nn.Sequential):
    """BatchNorm and a bias-free linear layer (Li & Shan, CLP, section IV.A): features [N, D] -> logits [N, n]."""

    def __init__(self, *, dim: int, aus: int) -> None:
        super().__init__(nn.BatchNorm1d(dim), nn.Linear(dim, aus, bias=False))

    @property
    def norm(self) -> nn.BatchNorm1d:
        """The first layer."""
        return cast("nn.BatchNorm1d", self[0])

    @property
    def linear(self) -> nn.Linear:
        """The last layer."""
        return cast("nn.Linear", self[1])
