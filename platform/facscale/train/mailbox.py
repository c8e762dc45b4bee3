"""How workers send records to the job's own process, without ever waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Record = tuple[str, dict[str, Any]]


@ray.remote(num_cpus=0)
class Records:
    """An actor beside the job's process: it outlives the workers, so no record is lost when one of them dies."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def put(self, kind: str, record: dict[str, Any]) -> None:
        """Leave a record."""
        self._records.append((kind, record))

    def take(self) -> list[Record]:
        """All records since the last call, in the order in which they came."""
        taken, self._records = self._records, []
        return taken


@dataclass(frozen=True)
class RayMailbox:
    """The mailbox of a process that joined Ray; workers on any node can leave records in it."""

    actor: Any

    def put(self, kind: str, record: dict[str, Any]) -> None:
        """Leave a record, without waiting."""
        self.actor.put.remote(kind, record)

    def put_and_wait(self, kind: str, record: dict[str, Any]) -> None:
        """Leave a record, and return once it is there: for a worker that ends with it."""
        ray.get(self.actor.put.remote(kind, record))

    def take(self) -> list[Record]:
        """All records since the last call."""
        taken: list[Record] = ray.get(self.actor.take.remote())
        return taken


class Reader:
    """Hands each record to `receive(kind, **record)`, from a thread, until `close`."""

    def __init__(self, receive: Callable[..., None], *, every: float = 1.0) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # Ray's own choice
        # may be a worker's host, and when that is lost, the records and this job's process would be lost with it
        actor = Records.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray adds it
        self.mailbox = RayMailbox(actor)
        self._receive, self._every = receive, every
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hand over what is left, and end."""
        self._closed.set()
        self._thread.join()
        self.deliver()
        ray.kill(self.mailbox.actor)

    def _run(self) -> None:
        while not self._closed.wait(self._every):
            self.deliver()

    def deliver(self) -> None:
        """Hand over what is there now."""
        for kind, record in self.mailbox.take():
            self._receive(kind, **record)
