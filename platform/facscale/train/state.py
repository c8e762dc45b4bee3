"""What one worker holds while it trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from facscale.data.views import Batch
from facscale.methods.base import Losses, Method
from facscale.spec import Job
from facscale.train.divergence import StepMonitor
from facscale.train.engine import Engine
from facscale.train.schedule import Schedule


@dataclass
class TrainState:
    """Everything that the loop needs. What changes in it, and is saved: `method`, `engines` and `step`."""

    job: Job
    schedule: Schedule
    method: Method
    engines: list[Engine]
    prepare: Callable[[Batch], Batch]  # moves a batch to the device and augments it there
    device: torch.device
    rank: int = 0
    step: int = 0  # optimizer steps done; the stream's cursor is step * batch_size
    losses: Losses = field(default_factory=dict)  # of the last micro-batch
    data_wait_s: float = 0.0  # seconds that training has waited for data, in total
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=1000))  # of the latest steps, with waiting
    saved_step: int = 0  # the latest that has a checkpoint; 0: none has
    monitor: StepMonitor = field(init=False)  # counts the steps that are not finite

    def __post_init__(self) -> None:
        self.monitor = StepMonitor(self.device)

    def autocast(self) -> torch.autocast:
        """A context with the spec's precision, for the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.job.train.precision == "bf16")
