"""Projection heads: they are trained with the encoder and thrown away after it."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def projection_head(*dims: int) -> nn.Sequential:
    """Fully connected layers dims[0] -> dims[1] -> ... with ReLU between them: [N, dims[0]] -> [N, dims[-1]]."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(dims):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def normalised_head(*dims: int, last_norm: bool = True, last_affine: bool = True) -> nn.Sequential:
    """Linear layers without bias, BatchNorm after each and ReLU between them: [N, dims[0]] -> [N, dims[-1]].

    `last_norm`: also after the last one, there with scale and shift only if `last_affine`.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(dims), start=2):
        layers.append(nn.Linear(inputs, outputs, bias=False))
        if number < len(dims):
            layers += [nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        elif last_norm:
            layers.append(nn.BatchNorm1d(outputs, affine=last_affine))
    return nn.Sequential(*layers)
