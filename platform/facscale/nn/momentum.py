"""The momentum encoder (He et al., "Momentum Contrast", arXiv 1911.05722)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MomentumEncoder(nn.Module):
    """An exponential moving average of a module (an encoder or a head): never trained, saved with the method, float32.

    In bfloat16 a momentum of 0.999 would round almost every update away. In training its BatchNorm layers use the
    batch's statistics, as MoCo's key encoder does.
    """

    def __init__(self, source: nn.Module, *, momentum: float) -> None:
        """`source` must remain the module that is trained, or consist of such modules."""
        super().__init__()
        self.momentum = momentum
        self.module = copy.deepcopy(source).float().requires_grad_(False)
        self._source = (source,)  # in a tuple, so that it is no submodule, whose weights would be saved twice

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Apply the averaged module, without gradient."""
        return self.module(x)

    @torch.no_grad()
    def update(self) -> None:
        """w' <- momentum * w' + (1 - momentum) * w, w being the source's weights. Call it after each optimizer step."""
        averages = [average.data for average in self.module.parameters()]
        parameters = [parameter.data.float() for parameter in self._source[0].parameters()]
        torch._foreach_lerp_(averages, parameters, 1 - self.momentum)

    @torch.no_grad()
    def reset(self) -> None:
        """Copy the source's weights and buffers. The platform does so after `start:` has replaced the source's weights."""
        pairs = zip(self.module.parameters(), self._source[0].parameters(), strict=True)
        buffers = zip(self.module.buffers(), self._source[0].buffers(), strict=True)
        for own, source in (*pairs, *buffers):
            own.copy_(source)
