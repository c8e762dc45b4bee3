"""One training as a value: what to train, on what, and where its events go. Any trainer takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from facscale.methods import DataFacts
from facscale.spec import Job
from facscale.train.events import Event, EventSink


@dataclass(frozen=True)
class ResumePoint:
    """The state of another training after `step` steps, or as near to it as that training's checkpoints allow."""

    training: str  # URL
    step: int


@dataclass(frozen=True)
class TrainingTask:
    """One training, complete and picklable."""

    job: Job
    config: Any  # the method's own
    facts: DataFacts
    inputs: Mapping[str, bytes] = field(default_factory=dict)  # exported methods, by the name of the argument
    start: bytes | None = None  # an exported method whose weights training begins with, where they fit
    subjects: Mapping[str, Collection[str]] | None = None  # labelled identities to train on, by data set URL; None: all
    resume_from: ResumePoint | None = (
        None  # where the weights come from while this training has no checkpoint of its own
    )
    events: EventSink | None = None  # None: events are dropped
    name: str = ""  # what logs and metrics call the training
    is_abortable: bool = False  # emit TrainingStarted, so that whoever receives it can end the training early

    def emit(self, event: Event) -> None:
        """Send an event without waiting; training never stops for it."""
        if self.events is not None:
            self.events.put(event)
