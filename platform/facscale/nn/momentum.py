"""The momentum encoder (He et al., "Momentum Contrast", arXiv 1911.05722)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Momentum(nn.Module):
    """A slowly moving copy of a module: never trained, saved with the method, always float32.

    In bfloat16 a momentum of 0.999 would round almost every update away. In training its BatchNorm layers use the
    batch's statistics, as MoCo's key encoder does.
    """

    def __init__(self, source: nn.Module, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.module = copy.deepcopy(source).float().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """What the copied module computes, without gradient."""
        return self.module(images)

    @torch.no_grad()
    def follow(self, source: nn.Module) -> None:
        """w' <- momentum * w' + (1 - momentum) * w; call it after each optimizer step."""
        keys = [key.data for key in self.module.parameters()]
        queries = [query.data.float() for query in source.parameters()]
        torch._foreach_lerp_(keys, queries, 1 - self.momentum)
