"""Divergence: steps whose losses or gradients are not finite are counted, and end a training that does not recover.

Counting costs a few small operations on the device and never waits for it: the counts are read where a step is logged or
a checkpoint is due, where the host waits anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from facscale.methods.base import Losses, Method
from facscale.nn.distributed import get_world_size
from facscale.train.errors import DivergedError

if TYPE_CHECKING:
    from facscale.train.engine import Engine
    from facscale.train.state import TrainState

PATIENCE = 5  # steps in a row that are not finite, after which a training ends
# The same for gradients under fp16 with loss scaling: the scale begins high and is halved until they fit.
LOSS_SCALING_PATIENCE = 40
PACKING = 2**40  # more than there are steps


@dataclass(frozen=True)
class NonFiniteSteps:
    """Steps so far whose losses or gradients were not finite, on any worker."""

    total: int
    longest: int  # number of the most of them in a row
    last: int  # the last step of those
    scaled: int  # steps up to now in a row whose gradients did not fit fp16's range
    is_preempted: bool = False  # whether any worker knows that one is about to be taken away

    @property
    def has_diverged(self) -> bool:
        """Whether there were too many in a row."""
        return self.longest >= PATIENCE or self.scaled >= LOSS_SCALING_PATIENCE


class StepMonitor:
    """Counts a worker's steps that are not finite."""

    def __init__(self, device: torch.device) -> None:
        self._run, self._longest, self._last, self._total = torch.zeros(4, dtype=torch.int64, device=device).unbind()
        self._names: tuple[str, ...] = ()
        self._suspects = torch.zeros(0, dtype=torch.bool, device=device)  # losses at the first step of the last run
        self._values: dict[str, list[Tensor]] = {}  # losses of the present step, by name, one for each micro-batch
        self._skipped = self._scaled = 0

    def add_losses(self, losses: Losses) -> None:
        """Take note of a micro-batch's losses. Those that are only logged (weight 0) do not count."""
        for name, loss in losses.items():
            if loss.weight:
                self._values.setdefault(name, []).append(loss.value.detach().float())

    def end_step(self, step: int, engines: Iterable[Engine]) -> None:
        """Count step `step`, numbered from 1: it is bad if a loss or the gradient of an engine is not finite."""
        engines = list(engines)
        skipped = sum(engine.skipped_steps for engine in engines)
        has_skipped, self._skipped = skipped > self._skipped, skipped
        if any(engine.has_loss_scaling for engine in engines):
            self._scaled = self._scaled + 1 if has_skipped else 0
            has_skipped = False
        if not self._values:
            return
        names = tuple(self._values)
        is_finite = torch.stack([torch.stack(values).isfinite().all() for values in self._values.values()])
        self._values = {}
        gradients = [flag for engine in engines if (flag := engine.has_finite_gradient) is not None]
        is_bad = ~torch.stack([is_finite.all(), *gradients]).all() | has_skipped
        self._run = torch.where(is_bad, self._run + 1, 0)
        if names != self._names:
            self._names, self._suspects = names, ~is_finite
        else:
            self._suspects = torch.where(self._run == 1, ~is_finite, self._suspects)
        is_longer = self._run > self._longest
        self._longest = torch.where(is_longer, self._run, self._longest)
        self._last = torch.where(is_longer, step, self._last)
        self._total = self._total + is_bad

    def read(self, *, is_preempted: bool = False) -> NonFiniteSteps:
        """The counts of all workers together, and whether `is_preempted` on any. Collective; waits for the device."""
        own = [torch.full_like(self._run, number) for number in (self._scaled, is_preempted)]
        counts = torch.stack([self._longest * PACKING + self._last, self._total, *own])
        if get_world_size() > 1:
            distributed.all_reduce(counts, op=distributed.ReduceOp.MAX)
        packed, total, scaled, preempted = counts.tolist()
        return NonFiniteSteps(total, packed // PACKING, packed % PACKING, scaled, bool(preempted))

    def list_suspects(self) -> list[str]:
        """The losses that were not finite, on any worker, when the last run of such steps began. Collective."""
        own = [name for name, is_suspect in zip(self._names, self._suspects.tolist(), strict=True) if is_suspect]
        return sorted({name for names in gather_lists(own) for name in names})


class WeightMonitor:
    """Finds weights that have become inf or nan; buffers that hold some by design (masks) do not count."""

    def __init__(self, method: Method) -> None:
        self._by_design = frozenset(find_nonfinite(method.state_dict()))

    def find_lost(self, state: TrainState) -> list[str]:
        """Names of tensors of the method and its optimizers that are not finite, on any worker. Collective."""
        own = [name for name in find_nonfinite(state.method.state_dict()) if name not in self._by_design]
        for engine in state.engines:
            own += [f"the optimizer's {name}" for name in find_nonfinite(engine.local_state())]
        flag = torch.tensor(len(own), device=state.device)
        if get_world_size() > 1:
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return list(dict.fromkeys(name for names in gather_lists(own) for name in names)) if flag.item() else []


def find_nonfinite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the floating-point tensors that hold inf or nan; waits for each device once."""
    floating = {name: value for name, value in tensors.items() if value.is_floating_point() and value.numel()}
    names = []
    for device in {value.device for value in floating.values()}:  # a few are in host memory (`nn.host`)
        there = {name: value for name, value in floating.items() if value.device == device}
        flags = torch.stack([value.isfinite().all() for value in there.values()]).tolist()
        names += [name for name, is_finite in zip(there, flags, strict=True) if not is_finite]
    return names


def gather_lists(own: list[str]) -> list[list[str]]:
    """Every worker's list, in rank order. Collective."""
    lists: list[list[str]] = [own] * get_world_size()
    if get_world_size() > 1:
        distributed.all_gather_object(lists, own)
    return lists


def explain_divergence(state: TrainState, steps: NonFiniteSteps) -> DivergedError:
    """The error of a training with too many steps in a row that are not finite. Collective."""
    losses = state.monitor.list_suspects()
    if steps.longest < PATIENCE:
        what, first, count = "its gradients exceed fp16's range", state.step - steps.scaled + 1, steps.scaled
    else:
        what = f"its {name_losses(losses)} not finite" if losses else "its gradients are not finite"
        first, count = steps.last - steps.longest + 1, steps.longest
    return DivergedError(f"the training diverged: from step {first} on, for {count} steps, {what}; {advise(state)}")


def explain_lost_weights(state: TrainState, names: list[str]) -> DivergedError:
    """The error of a training whose weights are not finite where a checkpoint is due. Collective."""
    losses = state.monitor.list_suspects()
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    cause = f"; its {name_losses(losses)} not finite before" if losses else ""
    return DivergedError(
        f"the training diverged: after step {state.step}, {names[0]}{more} are not finite{cause}; {advise(state)}"
    )


def name_losses(losses: list[str]) -> str:
    """As in "loss tcl is" and "losses cir, tcl are"."""
    return f"loss {losses[0]} is" if len(losses) == 1 else f"losses {', '.join(losses)} are"


def advise(state: TrainState) -> str:
    """What is kept, and what to try."""
    train = state.job.train
    kept = f"the checkpoint of step {state.saved_step} is kept" if state.saved_step else "no checkpoint was written"
    hints = [f"lower train.optimizer.lr ({train.optimizer.lr:g})"]
    if not train.clip:
        hints.append("set train.clip=1")
    if not train.schedule.warmup_epochs:
        hints.append("warm up with train.schedule.warmup_epochs")
    if train.precision == "bf16":
        hints.append("train.precision=float32")
    return f"{kept}. Try to {', '.join(hints)}; look at the losses before that step, and at the data behind them"
