"""What surrounds the training loop in one worker. `RaySession` and `LocalSession` differ in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from facscale.train.state import TrainState


class Session(Protocol):
    """A worker's place among the others, and where its checkpoints are."""

    rank: int
    world: int  # number of workers
    device: torch.device

    def restore(self) -> dict[str, Any]:
        """Read the state to resume from (`checkpoint.read`); empty where training begins."""

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Keep a checkpoint and the metrics that belong to it. All workers call it after the same step."""

    def export_gauges(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Publish the metrics of a step to this machine's monitoring; only rank 0 calls it."""

    def is_preempted(self) -> bool:
        """Whether this worker knows that one is about to be taken away, so that a checkpoint is due now. Does not wait."""
