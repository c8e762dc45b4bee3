"""Values of all workers, for losses that look beyond a worker's own share of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def workers() -> int:
    """How many train together: W."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if workers() > 1 else 0


def gathered(values: Tensor) -> Tensor:
    """[N, ...] of each worker -> [W * N, ...], in rank order; without workers, the values themselves. No gradient."""
    if workers() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(workers())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def gathered_with_gradient(values: Tensor) -> Tensor:
    """As `gathered`, and what all workers do with a worker's values reaches them as gradient."""
    gathering: Tensor = _Gather.apply(values) if workers() > 1 else values
    return gathering


def summed(values: Tensor) -> Tensor:
    """The sum over all workers [...], with gradient."""
    total: Tensor = _Sum.apply(values) if workers() > 1 else values
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.rows = len(values)
        return gathered(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole[rank() * context.rows : (rank() + 1) * context.rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        whole = values.contiguous().clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole


@torch.no_grad()
def through_shuffled(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """`function` [N, ...] -> [N, D] of each worker's values, computed on batches that are mixed over the workers.

    MoCo's shuffled BatchNorm: a key's batch statistics come from other samples than its query's. No gradient; without
    workers there is nobody to mix with.
    """
    if workers() == 1:
        return function(values)
    everything = gathered(values)
    order = torch.randperm(len(everything), device=values.device)
    dist.broadcast(order, src=0)
    mixed = gathered(function(everything[order.view(workers(), -1)[rank()]]))
    back = torch.argsort(order)
    return mixed[back[rank() * len(values) : (rank() + 1) * len(values)]]
