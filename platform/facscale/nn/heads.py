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
