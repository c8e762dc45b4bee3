"""BatchNorm over the batches of all workers, on any device (torch's own runs on GPUs alone), and kept still for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from facscale.nn.workers import summed, workers


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation [N, C, ...] with the mean and variance of all workers' samples together."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> the same shape."""
        if not self.training or workers() == 1:
            return batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum or 0.0, self.eps
            )  # fmt: skip
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide = x.float()
        count = float(workers() * x.numel() // x.shape[1])  # every worker has as many samples
        mean = summed(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = summed(centred.square().sum(axes)) / count
        self._follow(mean.detach(), variance.detach() * count / max(count - 1, 1))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.float().view(shape) + self.bias.float().view(shape)
        return normal.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance, self.momentum or 0.0)
            cast("Tensor", self.num_batches_tracked).add_(1)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Any number of dimensions will do."""


def synchronise(module: nn.Module) -> None:
    """Turn every BatchNorm layer below `module` into a synchronised one, with the same weights and statistics."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            made = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            made.weight, made.bias = child.weight, child.bias
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(made, buffer, getattr(child, buffer))
            made.train(child.training)
            module.register_module(name, made)
        else:
            synchronise(child)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """As in evaluation: BatchNorm normalises by its running statistics and leaves them as they are."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
