"""Training of the linear probe without autograd: features need no gradient, so a step is a few matrix products.

With a batch of B frames, x^ [B, D] the features after BatchNorm (which depend on no parameter), W [n, D] the linear
layer, γ and β [D] BatchNorm's gain and shift, L `nn.losses.masked_bce` and g = dL/dlogits [n, B]:

    logits = (W γ) x^T + W β        g = w (sigmoid(logits) - y) / labelled entries, 0 where there is no label
    M = g x^ [n, D]                 s = sum of g over the frames [n]
    dL/dW = M γ + s β^T             dL/dγ = sum of W M over the AUs             dL/dβ = W^T s

and then Adam (Kingma & Ba, 2015, algorithm 1) as in torch.optim.Adam. The order of the frames, the running statistics and
the weights equal those of the usual loop up to rounding; a test compares the two.

Two threads share the work: one gathers and normalises the next batches while the other steps. Each uses a single core,
because work this small takes less time than waiting for other threads, above all on a busy machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from facscale.nn.heads import LinearProbe
from facscale.spec.models import Probe

PREFETCH = 16  # batches that are prepared together: 8 MB of 512 features, which stay in the processor's cache
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, torch's defaults


class ProbeBatch(NamedTuple):
    """B frames, ready for a step."""

    features: Tensor  # x^ [B, D]
    positive: Tensor  # y [n, B], 1 or 0
    weight: Tensor  # [n, B], w / labelled entries; 0 where there is no label


class ProbeParameters(NamedTuple):
    """The parameters, or their gradient: views of one table [n + 2, D], which Adam updates at once."""

    weight: Tensor  # W [n, D]
    gain: Tensor  # γ [D]
    shift: Tensor  # β [D]

    @classmethod
    def view(cls, table: Tensor) -> ProbeParameters:
        """Views of a table [n + 2, D]."""
        return cls(table[:-2], table[-2], table[-1])


def train_probe(model: LinearProbe, *, x: Tensor, y: Tensor, weights: Tensor, probe: Probe, random: Generator) -> None:
    """Train `model` in place on features x [N, D] with labels y [N, n] in {0, 1, -1}; all on one device, of one dtype.

    weights [2, n] of negatives and positives; `random`, on the CPU, draws each epoch's order. A last batch of one frame
    is left out: BatchNorm has no variance to divide by.
    """
    try:
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            batches = _prepare_batches(model, x=x, y=y, weights=weights, probe=probe, random=random)
            pool.submit(_descend, model, _prefetch(batches, pool=pool), probe=probe).result()
    finally:  # the number of cores belongs to a thread, but new threads start with the number that was set last
        torch.set_num_threads(torch.get_num_threads())


@torch.no_grad()
def _prepare_batches(
    model: LinearProbe, *, x: Tensor, y: Tensor, weights: Tensor, probe: Probe, random: Generator
) -> Iterator[ProbeBatch]:
    """The batches of all epochs; updates BatchNorm's running statistics."""
    norm, _ = _get_layers(model)
    labels, (negative, positive) = y.T.contiguous(), weights[:, :, None]
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    gathered = x.new_empty(min(len(x), probe.batch_size), x.shape[1])  # once: new pages take longer than the copy
    for _ in range(probe.epochs):
        order = torch.randperm(len(x), generator=random).to(x.device)
        au = labels.index_select(1, order)
        labelled, active = au >= 0, au == 1
        weight = torch.where(active, positive, negative) * labelled
        tables = (table.split(probe.batch_size, dim=-1) for table in (order, labelled, active.to(x.dtype), weight))
        for rows, labelled_batch, active_batch, weight_batch in zip(*tables, strict=True):
            if len(rows) == 1:
                continue
            features = functional.batch_norm(
                torch.index_select(x, 0, rows, out=gathered[: len(rows)]),
                norm.running_mean,
                norm.running_var,
                training=True,
                momentum=norm.momentum,
                eps=norm.eps,
            )
            norm.num_batches_tracked += 1
            yield ProbeBatch(features, active_batch, weight_batch / labelled_batch.sum().clamp(min=1))


def _prefetch(batches: Iterator[ProbeBatch], *, pool: Executor) -> Iterator[ProbeBatch]:
    """The same batches; `pool` prepares the next ones while the last are in use."""

    def take() -> list[ProbeBatch]:
        return list(islice(batches, PREFETCH))

    future = pool.submit(take)
    while ready := future.result():
        future = pool.submit(take)
        yield from ready


@torch.no_grad()
def _descend(model: LinearProbe, batches: Iterator[ProbeBatch], *, probe: Probe) -> None:
    """Run Adam on these batches, in place."""
    norm, linear = _get_layers(model)
    parameters = [linear.weight, norm.weight, norm.bias]
    table = torch.cat([parameter.view(-1, norm.num_features) for parameter in parameters])
    gradient, first, second = (torch.zeros_like(table) for _ in range(3))
    values, slopes = ProbeParameters.view(table), ProbeParameters.view(gradient)
    for step, batch in enumerate(batches, start=1):
        _differentiate(batch, parameters=values, out=slopes)
        if probe.weight_decay:
            gradient.add_(table, alpha=probe.weight_decay)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = second.sqrt().mul_((1 - BETAS[1] ** step) ** -0.5).add_(EPSILON)
        table.addcdiv_(first, scale, value=-probe.lr / (1 - BETAS[0] ** step))
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _differentiate(batch: ProbeBatch, *, parameters: ProbeParameters, out: ProbeParameters) -> None:
    """Write the gradient of the loss of one batch to `out`."""
    logits = torch.addmm(
        (parameters.weight @ parameters.shift)[:, None], parameters.weight * parameters.gain, batch.features.T
    )
    g = logits.sigmoid_().sub_(batch.positive).mul_(batch.weight)
    s, m = g.sum(dim=1), g @ batch.features
    torch.mul(m, parameters.gain, out=out.weight).addr_(s, parameters.shift)
    torch.sum(m.mul_(parameters.weight), dim=0, out=out.gain)
    torch.mv(parameters.weight.T, s, out=out.shift)


def _get_layers(model: LinearProbe) -> tuple[nn.BatchNorm1d, nn.Linear]:
    norm, linear = model
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(linear, nn.Linear)
    return norm, linear
