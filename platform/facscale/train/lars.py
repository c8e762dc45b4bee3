"""LARS (You et al., "Large Batch Training of Convolutional Networks", arXiv 1708.03888), for SimCLR's large batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum, where each weight tensor's step is scaled to the tensor's own norm.

    For a weight w with gradient g::

        g  <- g + decay * w
        g  <- trust * |w| / |g| * g          (1 where either norm is 0)
        v  <- momentum * v + g;   w <- w - lr * v

    With `rate_in_velocity`, the last line is that of the paper (Algorithm 1) and of SimCLR's code::

        v  <- momentum * v + lr * g;   w <- w - v

    Both are the same as long as the rate is constant. Vectors (biases, BatchNorm's) are neither decayed nor scaled, as
    SimCLR has it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        rate_in_velocity: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})
        self._rate_in_velocity = rate_in_velocity

    @torch.no_grad()
    def step(self, _: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; closures are not called."""
        for group in self.param_groups:
            for weight in (parameter for parameter in group["params"] if parameter.grad is not None):
                gradient = self._scaled(weight, group) if weight.dim() > 1 else weight.grad
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                inner, outer = (group["lr"], 1.0) if self._rate_in_velocity else (1.0, group["lr"])
                velocity: Tensor = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient, alpha=inner)
                weight.sub_(velocity, alpha=outer)

    def _scaled(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        gradient = weight.grad + group["weight_decay"] * weight
        sizes = weight.norm(), gradient.norm()
        usable = (sizes[0] > 0) & (sizes[1] > 0)
        return gradient * torch.where(usable, group["trust"] * sizes[0] / sizes[1].clamp_min(1e-12), 1.0)
