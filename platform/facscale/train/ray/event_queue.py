"""How workers on any node send events to the process that started the training, without waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facscale.train.events import Event

POLL_S = 1.0


@ray.remote(num_cpus=0)
class EventBuffer:
    """An actor beside the process that started the training: it outlives workers, so their last events are not lost."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        """Append an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call, in the order in which they arrived."""
        events, self._events = self._events, []
        return events


@dataclass(frozen=True)
class RayEventQueue:
    """An event sink for any process that joined Ray, on any node."""

    actor: Any

    def put(self, event: Event) -> None:
        """Send an event, without waiting."""
        self.actor.put.remote(event)

    def put_and_wait(self, event: Event) -> None:
        """Send an event and return once it has arrived: for a worker that ends right after it."""
        ray.get(self.actor.put.remote(event))

    def take(self) -> list[Event]:
        """All events since the last call."""
        events: list[Event] = ray.get(self.actor.take.remote())
        return events


class EventDispatcher:
    """Passes each event of a queue to `receive`, from a thread, until `close`."""

    def __init__(self, receive: Callable[[Any], None], *, every_s: float = POLL_S) -> None:
        # Ray might place the actor on a worker's host; lost with it would be the events, and so this process's job.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.queue = RayEventQueue(
            EventBuffer.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray adds it
        )
        self._receive, self._every_s = receive, every_s
        self._closed = threading.Event()
        self._draining = threading.Lock()
        self._thread = threading.Thread(target=self._poll, name="events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Pass on what is left, and end."""
        self._closed.set()
        self._thread.join()
        self.drain()
        ray.kill(self.queue.actor)

    def drain(self) -> None:
        """Pass on the events that have arrived. When it returns, those that the thread has taken are passed on too."""
        with self._draining:
            for event in self.queue.take():
                self._receive(event)

    def _poll(self) -> None:
        while not self._closed.wait(self._every_s):
            self.drain()
