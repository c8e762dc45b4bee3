"""How workers tell the job's own process what happens, without ever waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Record = tuple[str, dict[str, Any]]


@ray.remote(num_cpus=0)
class Mailbox:
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


class Reader:
    """Hands each record to `receive(kind, **record)`, from a thread, until `close`."""

    def __init__(self, receive: Callable[..., None], *, every: float = 1.0) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # Ray's own choice
        # may be a worker's host, and when that is lost, the records and this job's process would be lost with it
        self.mailbox = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray adds it
        self._receive, self._every = receive, every
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hand over what is left, and end."""
        self._closed.set()
        self._thread.join()
        self.deliver()
        ray.kill(self.mailbox)

    def _run(self) -> None:
        while not self._closed.wait(self._every):
            self.deliver()

    def deliver(self) -> None:
        """Hand over what is there now."""
        for kind, record in ray.get(self.mailbox.take.remote()):
            self._receive(kind, **record)
