"""One training as a value: what to train, on what, and where its records go. Any trainer takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from facscale.methods import DataFacts
from facscale.spec import Job


class Mailbox(Protocol):
    """Where the records of a training are left."""

    def put(self, kind: str, record: dict[str, Any]) -> None:
        """Leave a record, without waiting until somebody reads it."""


@dataclass(frozen=True)
class Task:
    """One training, complete and picklable."""

    job: Job
    config: Any  # the method's own
    facts: DataFacts
    inputs: Mapping[str, bytes] = field(default_factory=dict)  # exported methods, by the name of the argument
    start: bytes | None = None  # an exported method whose weights training begins with, where they fit
    subjects: Mapping[str, Collection[str]] | None = None  # labelled identities to train on, by data set URL; None: all
    resume: str = ""  # URL of another training, whose latest checkpoint is used where this one has none of its own
    mailbox: Mailbox | None = None  # None: nobody watches
    title: str = ""  # what the training is called where it is watched
    endable: bool = False  # whoever watches may end it: a record "controlled" names Ray Train's controller

    def tell(self, kind: str, **record: Any) -> None:
        """Send a record without waiting; training never stops for it."""
        if self.mailbox is not None:
            self.mailbox.put(kind, record)
