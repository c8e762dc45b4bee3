"""What surrounds the training loop in one worker. `RaySession` and `LocalSession` differ in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from facscale.train.loop import Run


class Session(Protocol):
    """A worker's place among the others, and where its checkpoints come from and go to."""

    rank: int
    world: int  # workers in all
    device: torch.device

    def restore(self) -> dict[str, Any]:
        """The state to go on from (`checkpoint.read`); empty where training begins."""

    def save(self, run: Run, figures: Mapping[str, float]) -> None:
        """Keep a checkpoint of `run`, and what it cost so far. All workers call it after the same step."""

    def export_gauges(self, run: Run, values: Mapping[str, float]) -> None:
        """Publish the figures of a step where this machine's monitoring looks; rank 0 calls it."""

    def is_preempted(self) -> bool:
        """Whether a worker is about to be taken away, so that a checkpoint is due now. All workers get the same answer."""
