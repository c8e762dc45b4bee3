"""Calibration of AU logits: how a detector's outputs become probabilities that mean what they say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_LOGIT = 16.0  # beyond it, float32 probabilities are 0 or 1


class Calibration(nn.Module):
    """AU logits [N, n] -> probabilities [N, n], for each AU by a logistic or by an isotonic function.

    logistic: sigmoid(a x + b), with a temperature 1 / a and a bias (Platt, 1999; Guo et al., ICML 2017)
    isotonic: a non-decreasing function, linear between its K knots and constant outside of them (Zadrozny & Elkan, KDD 2002)

    A new one is the sigmoid itself. Logits are clamped to [-16, 16] first, as when probabilities were stored in float32.
    """

    scale: Tensor  # a [n]
    bias: Tensor  # b [n]
    is_isotonic: Tensor  # bool [n]
    knots: Tensor  # [n, K] logits, ascending; a repeated one adds nothing
    values: Tensor  # [n, K] probabilities at the knots, ascending

    def __init__(self, *, aus: int, knots: int = 2) -> None:
        """`aus`: n; `knots`: K, at least 2."""
        super().__init__()
        self.register_buffer("scale", torch.ones(aus))
        self.register_buffer("bias", torch.zeros(aus))
        self.register_buffer("is_isotonic", torch.zeros(aus, dtype=torch.bool))
        self.register_buffer("knots", torch.zeros(aus, knots))
        self.register_buffer("values", torch.full((aus, knots), 0.5))

    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities [N, n] in [0, 1]."""
        logits = logits.float().clamp(-MAX_LOGIT, MAX_LOGIT)
        logistic = torch.sigmoid(self.scale * logits + self.bias)
        # A sum over the pieces needs no search, which exported graphs lack.
        width, rise = self.knots.diff(dim=1), self.values.diff(dim=1)
        slope = torch.where(width > 0, rise / width.clamp(min=torch.finfo(width.dtype).tiny), torch.zeros_like(rise))
        covered = torch.minimum((logits[..., None] - self.knots[:, :-1]).clamp(min=0), width)
        isotonic = self.values[:, 0] + (covered * slope).sum(-1)
        return torch.where(self.is_isotonic, isotonic.clamp(0, 1), logistic)
