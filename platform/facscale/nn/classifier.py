"""The classifier of AUs on top of an encoder, and the loss that trains it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class LinearProbe(nn.Sequential):
    """BatchNorm and a bias-free linear layer (Li & Shan, CLP, section IV.A): features [N, D] -> logits [N, n]."""

    def __init__(self, *, dim: int, aus: int) -> None:
        super().__init__(nn.BatchNorm1d(dim), nn.Linear(dim, aus, bias=False))


def masked_bce(logits: Tensor, *, au: Tensor, weights: Tensor) -> Tensor:
    """Mean weighted binary cross-entropy over the labelled entries; entries of -1 have neither loss nor gradient.

    logits [..., n]; au [..., n] in {0, 1, -1}; weights [2, n] of negatives and positives. Zero where nothing is labelled.
    """
    known = au >= 0
    weight = torch.where(au == 1, weights[1], weights[0]) * known
    loss = binary_cross_entropy_with_logits(
        logits, (au == 1).to(logits.dtype), weight=weight.to(logits.dtype), reduction="sum"
    )
    return loss / known.sum().clamp(min=1)
