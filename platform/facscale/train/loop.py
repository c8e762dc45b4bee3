"""The training loop: one page from batch to step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from facscale.data.views import Batch
from facscale.methods.base import Losses, Method, total
from facscale.spec import Job
from facscale.train.engine import Engine, training_only
from facscale.train.plan import Plan


@dataclass
class Run:
    """All that one worker needs to train. What changes in it, and is saved: `method`, `engines` and `step`."""

    job: Job
    plan: Plan
    method: Method
    engines: list[Engine]
    prepare: Callable[[Batch], Batch]  # to the device, and augmented there
    device: torch.device
    rank: int = 0
    step: int = 0  # optimizer steps done; the stream's cursor is step * batch_size
    losses: Losses = field(default_factory=dict)  # of the last micro-batch
    waited: float = 0.0  # seconds that training has waited for data, in all
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=1000))  # of the latest steps, waiting included

    def autocast(self) -> torch.autocast:
        """The spec's precision, for the time of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.job.train.precision == "bf16")


def train(run: Run, batches: Iterator[Batch]) -> Iterator[Run]:
    """Train to the end of the plan; yields after each optimizer step.

    `batches`: this worker's share of every micro-batch, from sample number `run.step * batch_size` on.

    For each phase in written order: freeze the other roots, call it, `backward`, `step`; then, once, `after_step`.
    Whatever is random in a step follows from (seed, step, rank), so a resumed run needs no random state.
    """
    phases = [(phase, engine) for phase in run.method.phases() for engine in run.engines if phase in engine.root.phases]
    run.method.train()
    while run.step < run.plan.steps:
        began = time.monotonic()
        torch.manual_seed(hash((run.job.seed, run.step, run.rank)))
        for _ in range(run.job.train.accumulate):
            asked = time.monotonic()
            batch = next(batches)
            run.waited += time.monotonic() - asked
            batch = run.prepare(batch)
            for phase, engine in phases:
                engine.set_rate(run.plan.rate(run.step))
                with training_only(engine, run.engines), run.autocast():
                    losses = getattr(run.method, phase)(batch)
                engine.backward(total(losses))
                engine.step()
                run.losses = run.losses | losses
        run.method.after_step()
        run.step += 1
        run.seconds.append(time.monotonic() - began)
        yield run
