"""The schedule of a training: how many steps, and what happens at which. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from facscale.spec import Job


@dataclass(frozen=True)
class Schedule:
    """Steps of a whole training. One epoch takes `samples_per_epoch` samples; the last batch may reach into the next."""

    job: Job
    samples_per_epoch: int

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return math.ceil(self.job.train.epochs * self.samples_per_epoch / self.job.train.batch_size)

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step * self.job.train.batch_size / self.samples_per_epoch

    def learning_rate(self, step: int) -> float:
        """The learning rate of step number `step` (from 0): linear warm-up, then the schedule."""
        s, lr = self.job.train.schedule, self.job.train.optimizer.lr
        epoch, last = self.epoch(step), self.job.train.epochs
        if epoch < s.warmup_epochs:
            return lr * (self.epoch(step + 1) / s.warmup_epochs if s.warmup_epochs > self.epoch(1) else 1.0)
        if s.name == "cosine":
            return lr * 0.5 * (1 + math.cos(math.pi * (epoch - s.warmup_epochs) / max(last - s.warmup_epochs, 1e-9)))
        if s.name == "step":
            return lr * s.gamma ** sum(epoch >= milestone for milestone in s.milestones)
        return lr

    def is_due(self, step: int, *, every: int) -> bool:
        """Whether something that happens every `every` steps, and at the end, is due after `step` steps."""
        return every > 0 and (step % every == 0 or step == self.steps)
