"""Collectives over the workers of a training, for losses that use the samples of all workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def get_world_size() -> int:
    """Return the number of workers W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def get_rank() -> int:
    """Return the rank of this worker; 0 without a process group."""
    return dist.get_rank() if get_world_size() > 1 else 0


def all_gather(values: Tensor) -> Tensor:
    """[N, ...] of each worker -> [W * N, ...], in rank order. No gradient."""
    if get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(get_world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def all_gather_with_gradient(values: Tensor) -> Tensor:
    """[N, ...] of each worker -> [W * N, ...], in rank order; the gradient is the sum over all workers' losses."""
    result: Tensor = _AllGather.apply(values) if get_world_size() > 1 else values
    return result


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.rows = len(values)
        return all_gather(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[get_rank() * context.rows : (get_rank() + 1) * context.rows]


@torch.no_grad()
def shuffled_forward(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Apply `function` [N, ...] -> [N, D] to batches that are shuffled over the workers, and restore the order.

    This is MoCo's shuffling BatchNorm: the batch statistics of a key come from other samples than its query's. Each
    worker deals its samples, in random order, evenly to all workers, so that each sample travels once, and as many of
    them come from each worker as a uniform shuffle of all samples has on average. No gradient; a single worker does not
    shuffle. All workers have the same number N of samples.
    """
    world = get_world_size()
    if world == 1:
        return function(values)
    order = torch.randperm(len(values), device=values.device)
    sent = [share_of(len(values), (other - get_rank()) % world) for other in range(world)]
    received = [share_of(len(values), (get_rank() - other) % world) for other in range(world)]
    shuffled = torch.empty_like(values, memory_format=torch.contiguous_format)
    dist.all_to_all_single(shuffled, values.detach()[order].contiguous(), received, sent)
    results = function(shuffled).contiguous()
    returned = torch.empty_like(results)
    dist.all_to_all_single(returned, results, sent, received)
    restored = torch.empty_like(returned)
    restored[order] = returned
    return restored


def share_of(count: int, part: int) -> int:
    """How many of `count` samples a worker deals to the one `part` places after it: all shares differ by at most one."""
    world = get_world_size()
    return count // world + (part < count % world)
