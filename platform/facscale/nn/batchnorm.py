"""Synchronised BatchNorm for any device, and BatchNorm with frozen statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from facscale.nn.distributed import all_gather, get_world_size
from facscale.nn.precision import widen


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation [N, C, ...] with the mean and variance over the samples of all workers.

    On GPUs this is torch's own layer; on the CPU, where torch refuses, the same. Either has one collective operation in
    each direction.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> the same shape."""
        if x.is_cuda:
            result: Tensor = super().forward(x)
            return result
        if not self.training or get_world_size() == 1:
            return batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                self.training,
                self.momentum or 0.0,
                self.eps,
            )
        given = (widen(parameter) if self.affine else None for parameter in (self.weight, self.bias))
        result, mean, variance = _Normalise.apply(widen(x), *given, self.eps)
        count = get_world_size() * x.numel() // x.shape[1]
        self._update_running_stats(mean, variance * count / max(count - 1, 1))
        return result.to(x.dtype)

    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance, self.momentum or 0.0)
            cast("Tensor", self.num_batches_tracked).add_(1)


class _Normalise(torch.autograd.Function):
    """Normalise x [N, C, ...] over the samples of all workers, who have the same number of them each.

    A worker gathers the mean and variance of every worker's samples on its way forward, and the sums of its gradient (by
    themselves and times the normalised x) on its way back. With m samples in all, dy the gradient, y^ the normalised x,
    and sums over all samples: dx = gain / deviation * (dy - sum dy / m - y^ sum(dy y^) / m) (Ioffe & Szegedy, 2015, section 3).
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.stack(torch.batch_norm_update_stats(x, None, None, 0.0))
        means, variances = all_gather(own[None]).unbind(1)  # [W, C] each
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        context.save_for_backward(x, gain, mean, variance)
        context.eps = eps
        context.mark_non_differentiable(mean, variance)
        return batch_norm(x, mean, variance, gain, shift, training=False, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, variance = context.saved_tensors
        own = torch.ops.aten.native_batch_norm_backward(  # as if mean and variance were constants
            gradient, x, gain, mean, variance, None, None, False, context.eps, [True, True, True]
        )
        by_x, by_gain, by_shift = own  # the last two are sums over this worker's samples
        count = get_world_size() * x.numel() // x.shape[1]
        with_x, alone = all_gather(torch.stack([by_gain, by_shift])[None]).sum(0) / count
        scale = torch.rsqrt(variance + context.eps)
        slope = with_x * scale.square() * (1 if gain is None else gain)
        offset = alone * scale * (1 if gain is None else gain) - slope * mean
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        by_x.addcmul_(x, slope.view(shape), value=-1).sub_(offset.view(shape))
        return (by_x, None, None, None) if gain is None else (by_x, by_gain, by_shift, None)


def synchronise_batchnorm(module: nn.Module) -> None:
    """Replace every BatchNorm layer below `module` by a SyncBatchNorm with the same weights and statistics."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            layer = SyncBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            layer.weight, layer.bias = child.weight, child.bias
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(layer, buffer, getattr(child, buffer))
            layer.train(child.training)
            module.register_module(name, layer)
        else:
            synchronise_batchnorm(child)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put `module` in eval mode for the block: BatchNorm uses its running statistics and does not change them.

    Afterwards each submodule is back in the mode that it was in.
    """
    training = [submodule for submodule in module.modules() if submodule.training]
    module.eval()
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True
