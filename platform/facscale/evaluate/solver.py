"""The training of the linear probe, without autograd: no gradient is wanted of the features, so a step is a few matrices.

With a batch of B frames, x^ [B, D] the features that BatchNorm made (they hang on no parameter), W [n, D] the linear
layer, γ and β [D] BatchNorm's gain and shift, L `nn.classifier.masked_bce` and g = dL/dlogits [n, B]:

    logits = (W γ) x^T + W β        g = w (sigmoid(logits) - y) / labelled entries, 0 where there is no label
    M = g x^ [n, D]                 s = sum of g over the frames [n]
    dL/dW = M γ + s β^T             dL/dγ = sum of W M over the AUs             dL/dβ = W^T s

and then Adam (Kingma & Ba, 2015, algorithm 1) as torch.optim.Adam writes it. The order of the frames, the running
statistics and the weights are those of the usual loop to rounding; a test holds the two together.

Two threads share the work: one gathers and normalises the next batches while the other steps. Each keeps to one core,
because work this small costs less than waiting for helpers, most of all on a machine that does something else too.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from facscale.nn.classifier import LinearProbe
from facscale.spec.models import Probe

AHEAD = 16  # batches that are prepared together: 8 MB of 512 features, which stay in the processor's cache
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as torch has them


class Batch(NamedTuple):
    """B frames, ready to be stepped on."""

    features: Tensor  # x^ [B, D]
    positive: Tensor  # y [n, B], 1 or 0
    weight: Tensor  # [n, B], w / labelled entries; 0 where there is no label


class Parts(NamedTuple):
    """What is learned, or its gradient: views of one table [n + 2, D], which Adam treats as a whole."""

    weight: Tensor  # W [n, D]
    gain: Tensor  # γ [D]
    shift: Tensor  # β [D]

    @classmethod
    def of(cls, table: Tensor) -> Parts:
        """The views."""
        return cls(table[:-2], table[-2], table[-1])


class Layers(NamedTuple):
    """Of a probe."""

    norm: nn.BatchNorm1d
    linear: nn.Linear


def train(model: LinearProbe, *, x: Tensor, y: Tensor, weights: Tensor, probe: Probe, random: Generator) -> None:
    """Train `model` in place on features x [N, D] with labels y [N, n] in {0, 1, -1}; all on one device, of one dtype.

    weights [2, n] of negatives and positives; `random`, on the CPU, draws each epoch's order. A last batch of one frame
    is left out: BatchNorm has no variance to divide by.
    """
    try:
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            batches = _prepared(model, x=x, y=y, weights=weights, probe=probe, random=random)
            pool.submit(_descend, model, _ahead(batches, pool=pool), probe=probe).result()
    finally:  # a thread's number of cores is its own, but new threads begin with the number that was set last
        torch.set_num_threads(torch.get_num_threads())


@torch.no_grad()
def _prepared(
    model: LinearProbe, *, x: Tensor, y: Tensor, weights: Tensor, probe: Probe, random: Generator
) -> Iterator[Batch]:
    """The batches of all epochs; BatchNorm's running statistics follow them."""
    norm, labels, (negative, positive) = _layers(model).norm, y.T.contiguous(), weights[:, :, None]
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    for _ in range(probe.epochs):
        order = torch.randperm(len(x), generator=random).to(x.device)
        au = labels.index_select(1, order)
        known, active = au >= 0, au == 1
        weight = torch.where(active, positive, negative) * known
        tables = (part.split(probe.batch_size, dim=-1) for part in (order, known, active.to(x.dtype), weight))
        for rows, here, one, w in zip(*tables, strict=True):
            if len(rows) == 1:
                continue
            features = functional.batch_norm(
                x.index_select(0, rows), norm.running_mean, norm.running_var,
                training=True, momentum=norm.momentum, eps=norm.eps,
            )  # fmt: skip
            norm.num_batches_tracked += 1
            yield Batch(features, one, w / here.sum().clamp(min=1))


def _ahead(batches: Iterator[Batch], *, pool: Executor) -> Iterator[Batch]:
    """The same batches, the next ones made by `pool` while the last are in use."""

    def some() -> list[Batch]:
        return list(islice(batches, AHEAD))

    coming = pool.submit(some)
    while made := coming.result():
        coming = pool.submit(some)
        yield from made


@torch.no_grad()
def _descend(model: LinearProbe, batches: Iterator[Batch], *, probe: Probe) -> None:
    """Adam on these batches, in place."""
    norm, linear = _layers(model)
    learned = [linear.weight, norm.weight, norm.bias]
    table = torch.cat([part.view(-1, norm.num_features) for part in learned])
    gradient, first, second = (torch.zeros_like(table) for _ in range(3))
    at, slope = Parts.of(table), Parts.of(gradient)
    for step, batch in enumerate(batches, start=1):
        _differentiate(batch, at=at, out=slope)
        if probe.weight_decay:
            gradient.add_(table, alpha=probe.weight_decay)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = second.sqrt().mul_((1 - BETAS[1] ** step) ** -0.5).add_(EPSILON)
        table.addcdiv_(first, scale, value=-probe.lr / (1 - BETAS[0] ** step))
    for part, value in zip(learned, at, strict=True):
        part.copy_(value)


def _differentiate(batch: Batch, *, at: Parts, out: Parts) -> None:
    """The gradient of the loss of one batch, written to `out`."""
    logits = torch.addmm((at.weight @ at.shift)[:, None], at.weight * at.gain, batch.features.T)
    g = logits.sigmoid_().sub_(batch.positive).mul_(batch.weight)
    s, m = g.sum(dim=1), g @ batch.features
    torch.mul(m, at.gain, out=out.weight).addr_(s, at.shift)
    torch.sum(m.mul_(at.weight), dim=0, out=out.gain)
    torch.mv(at.weight.T, s, out=out.shift)


def _layers(model: LinearProbe) -> Layers:
    norm, linear = model
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(linear, nn.Linear)
    return Layers(norm, linear)
