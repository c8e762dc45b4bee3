"""What a training reports while it runs. Workers emit events; the process that started the training receives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class StepProgress:
    """`step` of `steps` optimizer steps are done."""

    step: int
    steps: int
    note: str  # losses, or "started"


@dataclass(frozen=True)
class StepMetrics:
    """Numbers by metric name, measured after `step` optimizer steps."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class SampleImages:
    """A method's images for a few samples: by column, [n, H, W, 3] in [0, 1] or displacements [n, H, W, 2] in pixels."""

    step: int
    columns: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TrainingResumed:
    """The training goes on from a checkpoint, perhaps with another number of workers."""

    step: int
    workers: int


@dataclass(frozen=True)
class CheckpointPassedOver:
    """A checkpoint is damaged, and the training resumes from an earlier one."""

    reason: str  # which one, why, and what happens now


@dataclass(frozen=True)
class WorkersLost:
    """Workers failed, or could not reach each other."""

    reason: str  # which ones, why, and what happens now


@dataclass(frozen=True)
class NonFiniteStepsCounted:
    """`count` of the steps until `step`, more than reported before, had losses or gradients that are not finite."""

    step: int
    count: int


@dataclass(frozen=True)
class SamplesSkipped:
    """Row groups and frames that a worker could not read."""

    rank: int
    errors: tuple[str, ...]


@dataclass(frozen=True)
class TrainingStarted:
    """The training can be ended early: `abort` ends it and gives back all that it holds. Sent anew after each restart.

    Where Ray Train trains, `abort` does not wait, and returns Ray's reference to a call that fails once it is done.
    """

    abort: Callable[[], Any]


class Event(Protocol):
    """Any of the dataclasses above, or another room's own: frozen and picklable."""


class EventSink(Protocol):
    """Where a training's events go."""

    def put(self, event: Event) -> None:
        """Accept an event without making the training wait."""
