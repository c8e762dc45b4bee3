"""The same few verbs for every kind of cluster: what is there, how does it stand, what does it say, stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from facscale.cluster.kubernetes.clusters import Place
from facscale.cluster.kubernetes.manifest import Wish
from facscale.cluster.kubernetes.order import Need, Order
from facscale.progress import Reached, reached


class State(StrEnum):
    """How far a job is."""

    QUEUED = "queued"  # admitted by nobody yet
    SUSPENDED = "suspended"
    STARTING = "starting"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def over(self) -> bool:
        """Nothing will happen any more."""
        return self in {State.SUCCEEDED, State.FAILED, State.STOPPED}


@dataclass(frozen=True)
class Standing:
    """A job as it stood when it was looked at."""

    id: str  # of the RayJob, or of the submission to Ray
    job: str  # its name
    state: State
    why: str = ""  # what it waits for, or of what it ended
    workers: str = ""  # "4", or "2-8"
    began: datetime | None = None
    who: str = ""
    words: str = ""  # behind `facscale submit`
    spec: str = ""  # 16 digits of its digest
    trains: str = ""  # 16 digits of what decides the place of its checkpoints
    tries: int = 1

    @property
    def age_s(self) -> float:
        """Seconds since it was submitted."""
        return (datetime.now(UTC) - self.began).total_seconds() if self.began else 0.0


class Log(Protocol):
    """What a job prints, followed."""

    def more(self) -> list[str]:
        """Lines that came since the last time; returns soon where there are none."""
        ...

    def close(self) -> None:
        """Read no more."""
        ...


class Host(Protocol):
    """One cluster. Every method raises a UserError where the cluster does not do it."""

    @property
    def place(self) -> Place:
        """Where it is."""
        ...

    def jobs(self) -> list[Standing]:
        """All that facscale submitted there, the newest first."""
        ...

    def look(self, job: str) -> Standing:
        """One job by its id, with what it waits for. Raises GoneError."""
        ...

    def log(self, job: str) -> Log:
        """Of one job, from its beginning."""
        ...

    def lines(self, job: str, *, last: int | None = None) -> list[str]:
        """What it has printed until now; only the `last` ones, to tell its progress by."""
        ...

    def submit(self, order: Order, *, need: Need, wish: Wish) -> str:
        """Start it, whatever there is of it; its id there."""
        ...

    def remove(self, job: str) -> None:
        """Forget a job that is over, so that it can be submitted again."""
        ...

    def cancel(self, job: str) -> None:
        """Stop it and wait until it has stopped. What is in storage stays."""
        ...


def progress(lines: Sequence[str]) -> Reached | None:
    """The last bar in some lines of a log."""
    return next((bar for bar in map(reached, reversed(lines)) if bar), None)
