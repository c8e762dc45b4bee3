"""Synchronised BatchNorm for any device, and BatchNorm with frozen statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from facscale.nn.distributed import all_reduce_sum, get_world_size
from facscale.nn.precision import widen


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation [N, C, ...] with the mean and variance over the samples of all workers.

    On GPUs this is torch's own layer, with one collective operation in each direction; on the CPU, where torch refuses,
    the same in plain operations.
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
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        x32 = widen(x)
        count = float(get_world_size() * x.numel() // x.shape[1])  # all workers have the same number of samples
        mean = all_reduce_sum(x32.sum(axes)) / count
        centred = x32 - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(axes)) / count
        self._update_running_stats(mean.detach(), variance.detach() * count / max(count - 1, 1))
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * widen(self.weight).view(shape) + widen(self.bias).view(shape)
        return normalised.to(x.dtype)

    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance, self.momentum or 0.0)
            cast("Tensor", self.num_batches_tracked).add_(1)


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
