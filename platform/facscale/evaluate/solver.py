"""Training of linear probes without autograd: features need no gradient, so a step is a few matrix products.

With a batch of B frames, c [B, D] the features less their mean, r [D] one by their standard deviation, x^ = c r the
features after BatchNorm (which depend on no parameter), W [n, D] the linear layer, γ and β [D] BatchNorm's gain and
shift, and g = dL/dlogits [n, B], which is 0 where there is no label:

    logits = (W γ r) c^T + W β      p = sigmoid(logits)
    g = w (p - y) / labelled entries                  for L = `nn.losses.masked_bce`, labels y
    g = 10 (5 p - t) p (1 - p) / labelled entries     for L = `nn.losses.masked_mse` of 5 p, intensities t
    M = (g c) r [n, D]              s = sum of g over the frames [n]
    dL/dW = M γ + s β^T             dL/dγ = sum of W M over the AUs             dL/dβ = W^T s

and then torch's Adam. x^ itself is never computed. The order of the frames, the running statistics and the weights equal
those of the usual loop up to rounding; a test compares the two.

Several probes take their steps together, each on its own frames of the same features: a step alone is so short that
calling its operations takes as long as their work. Two threads share it: one gathers the next batches while the other
steps. Each uses a single core, because work this small takes less time than waiting for other threads, above all on a
busy machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from facscale.compat.torch import without_compiler
from facscale.nn.heads import MAX_INTENSITY, LinearProbe
from facscale.spec.models import Probe

GATHERED = 2**23  # bytes of features that are gathered at once: they stay in the processor's cache


class ProbeFit(NamedTuple):
    """A probe to be trained."""

    model: LinearProbe
    rows: Tensor  # int64, the frames to train on
    weights: Tensor  # [2, n] of negatives and positives; of intensities, 1
    random: Generator  # draws the order of each epoch


class ProbeSteps(NamedTuple):
    """The next K steps of F probes. A batch that is short is filled up with frames of no weight."""

    features: Tensor  # c [K, F, B, D]
    scale: Tensor  # r [K, F, D]
    target: Tensor  # y or t [K, F, n, B]
    weight: Tensor  # [K, F, n, B], w / labelled entries; 0 where there is no label
    frames: Tensor  # [K, F], how many there are; 0 for a probe that has been trained


class ProbeParameters(NamedTuple):
    """The parameters of F probes, or their gradients: views of one table [F, n + 2, D], which Adam updates at once."""

    weight: Tensor  # W [F, n, D]
    gain: Tensor  # γ [F, 1, D]
    shift: Tensor  # β [F, 1, D]

    @classmethod
    def view(cls, table: Tensor) -> ProbeParameters:
        """Views of a table [F, n + 2, D]."""
        return cls(table[:, :-2], table[:, -2:-1], table[:, -1:])


# The derivative of each loss by its logit, from the logits, which it may overwrite, and the targets.
Slope = Callable[[Tensor, Tensor], Tensor]


def slope_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The derivative of binary cross-entropy by the logits; targets in {0, 1}."""
    return logits.sigmoid_().sub_(target)


def slope_squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """The derivative of (5 sigmoid(logit) - t)^2 by the logits; targets t in [0, 5]."""
    p = logits.sigmoid_()
    return (p * MAX_INTENSITY).sub_(target).mul_(p).mul_(p.neg().add_(1)).mul_(2 * MAX_INTENSITY)


def train_probes(
    fits: Sequence[ProbeFit], *, x: Tensor, y: Tensor, probe: Probe, slope: Slope = slope_cross_entropy
) -> None:
    """Train models in place on some of the features x [N, D] with labels y [N, n], below 0 where there is none, on the CPU.

    A last batch of one frame is left out: BatchNorm has no variance to divide by. Threads that begin afterwards use one core
    in torch, until `torch.set_num_threads` is called again.
    """
    gatherer = BatchGatherer(fits, x=x, y=y, probe=probe)
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pool.submit(_descend, fits, _prefetch(gatherer.gather, pool=pool), probe=probe, slope=slope).result()
    gatherer.store_statistics()


class BatchGatherer:
    """Gathers the batches of probes that are trained together, and keeps BatchNorm's running statistics."""

    def __init__(self, fits: Sequence[ProbeFit], *, x: Tensor, y: Tensor, probe: Probe) -> None:
        self._x, self._y = x, y
        self._size = min(probe.batch_size, max(len(fit.rows) for fit in fits))  # of the largest batch
        self._batches = [_draw_batches(fit, probe=probe) for fit in fits]
        self._norms = [fit.model.norm for fit in fits]
        self._epsilon, self._momentum = self._norms[0].eps, self._norms[0].momentum or 0.0  # all are alike
        self._negative, self._positive = torch.stack([fit.weights for fit in fits]).unbind(1)  # [F, n] each
        self._steps = max(1, GATHERED // (len(fits) * self._size * x.shape[1] * x.itemsize))
        # Room for two: one is filled while the other is in use. New memory would cost more than the copy.
        self._rooms = itertools.cycle(x.new_empty(2, self._steps, len(fits), self._size, x.shape[1]))
        self._batches_seen = torch.zeros(len(fits), dtype=torch.int64)
        self._running = torch.stack([torch.stack(_get_statistics(norm)) for norm in self._norms], 1)  # [2, F, D]

    @torch.no_grad()
    def gather(self) -> ProbeSteps | None:
        """The next steps, which are valid until those after the following ones are gathered; None after the last."""
        rows, count = self._draw()
        if not len(rows):
            return None
        features = next(self._rooms)[: len(rows)]
        torch.index_select(self._x, 0, rows.flatten(), out=features.flatten(0, 2))
        scale = self._centre(features, count=count)
        return ProbeSteps(features, scale, *self._weigh(rows, count=count), count)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """The frames [K, F, B] of the next steps, and how many of them count [K, F]."""
        rows = torch.zeros(self._steps, len(self._batches), self._size, dtype=torch.int64)
        count = torch.zeros(rows.shape[:2], dtype=torch.int64)
        for fit, batches in enumerate(self._batches):
            for step, batch in enumerate(itertools.islice(batches, self._steps)):
                rows[step, fit] = batch[0]
                rows[step, fit, : len(batch)] = batch
                count[step, fit] = len(batch)
        steps = int((count > 0).any(1).sum())
        return rows[:steps], count[:steps]

    def _centre(self, features: Tensor, *, count: Tensor) -> Tensor:
        """Subtract the mean of each batch in place, and return r [K, F, D]; updates the running statistics."""
        batches = zip(features.flatten(0, 1), count.flatten().tolist(), strict=True)
        found = [torch.batch_norm_update_stats(batch[: size or None], None, None, 0.0) for batch, size in batches]
        mean, variance = (torch.stack(values).unflatten(0, count.shape) for values in zip(*found, strict=True))
        features.sub_(mean[:, :, None])
        self._batches_seen += (count > 0).sum(0)
        sizes = count[..., None].to(variance.dtype)
        unbiased = variance * (sizes / (sizes - 1).clamp(min=1))
        share = self._momentum * sizes.sign()  # 0 for a probe that has been trained
        for step in zip(mean, unbiased, share, strict=True):
            self._running.lerp_(torch.stack(step[:2]), step[2])
        return torch.rsqrt(variance + self._epsilon)

    def _weigh(self, rows: Tensor, *, count: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and weights [K, F, n, B] of frames [K, F, B]."""
        au = self._y.index_select(0, rows.flatten()).unflatten(0, rows.shape).mT.contiguous()
        labelled = (au >= 0) & (torch.arange(self._size) < count[..., None])[:, :, None]
        weight = torch.where(au == 1, self._positive[..., None], self._negative[..., None]) * labelled
        return au.to(self._x.dtype), weight / labelled.sum((2, 3), keepdim=True).clamp(min=1)

    @torch.no_grad()
    def store_statistics(self) -> None:
        """Write the running statistics to the models."""
        for norm, seen, found in zip(self._norms, self._batches_seen, self._running.unbind(1), strict=True):
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += seen
            for buffer, value in zip(_get_statistics(norm), found, strict=True):
                buffer.copy_(value)


def _prefetch(gather: Callable[[], ProbeSteps | None], *, pool: Executor) -> Iterator[ProbeSteps]:
    """What `gather` returns; `pool` gathers the next steps while the last are in use."""
    future = pool.submit(gather)
    while (steps := future.result()) is not None:
        future = pool.submit(gather)
        yield steps


def _draw_batches(fit: ProbeFit, *, probe: Probe) -> Iterator[Tensor]:
    """The frames of each step of all epochs."""
    for _ in range(probe.epochs):
        order = fit.rows[torch.randperm(len(fit.rows), generator=fit.random)]
        yield from (rows for rows in order.split(probe.batch_size) if len(rows) > 1)


@without_compiler()
@torch.no_grad()
def _descend(fits: Sequence[ProbeFit], steps: Iterator[ProbeSteps], *, probe: Probe, slope: Slope) -> None:
    """Run Adam on these steps, in place."""
    table = torch.stack([_join_parameters(fit.model) for fit in fits])
    table.grad = torch.zeros_like(table)
    adam = torch.optim.Adam([table], lr=probe.lr, weight_decay=probe.weight_decay, fused=True)
    values, slopes = ProbeParameters.view(table), ProbeParameters.view(table.grad)
    training = dict(enumerate(fits))
    for several in steps:
        for frames, *batch in zip(several.frames.tolist(), *several[:-1], strict=True):
            for number in [number for number in training if not frames[number]]:
                _store_parameters(training.pop(number).model, table[number])
            _differentiate(*batch, parameters=values, out=slopes, slope=slope)
            adam.step()
    for number, fit in training.items():
        _store_parameters(fit.model, table[number])


def _differentiate(
    features: Tensor,
    scale: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    parameters: ProbeParameters,
    out: ProbeParameters,
    slope: Slope,
) -> None:
    """Write the gradients of the losses of one batch of each probe to `out`."""
    w, gain, shift = parameters
    r = scale[:, None]
    logits = torch.baddbmm(w @ shift.mT, w * (gain * r), features.mT)
    g = slope(logits, target).mul_(weight)
    s, m = g.sum(dim=2, keepdim=True), torch.bmm(g, features).mul_(r)
    torch.mul(m, gain, out=out.weight).addcmul_(s, shift)
    torch.sum(m.mul_(w), dim=1, keepdim=True, out=out.gain)
    torch.bmm(s.mT, w, out=out.shift)


def _join_parameters(model: LinearProbe) -> Tensor:
    """The table [n + 2, D] of a model's parameters."""
    return torch.cat([model.linear.weight, model.norm.weight[None], model.norm.bias[None]])


def _store_parameters(model: LinearProbe, table: Tensor) -> None:
    """Copy the table [n + 2, D] to a model."""
    model.linear.weight.copy_(table[:-2])
    model.norm.weight.copy_(table[-2])
    model.norm.bias.copy_(table[-1])


def _get_statistics(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
