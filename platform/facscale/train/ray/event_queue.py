"""How workers on any node send events to the process that started the training, without waiting for it."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facscale.train.events import Event

POLL_S = 1.0
RESTART_S = 30.0  # how long the last events are waited for while Ray restarts the actor
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventsLost:
    """The actor was killed, perhaps for want of memory, and what it held is lost."""


@ray.remote(num_cpus=0, max_restarts=-1)
class EventBuffer:
    """An actor beside the process that started the training: it outlives workers, so their last events are not lost."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # Ray calls something of its own that it has deprecated
            warnings.simplefilter("ignore")
            was_killed = ray.get_runtime_context().was_current_actor_reconstructed
        self._events: list[Event] = [EventsLost()] if was_killed else []

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
        """Pass on what is left, and end. Raises RayActorError where it cannot be had any more.

        Whoever called must not take the training for finished then: the events of its last second would be lost.
        """
        self._closed.set()
        self._thread.join()
        until = time.monotonic() + RESTART_S
        while True:
            try:
                self.drain()
                break
            except ActorUnavailableError:
                if time.monotonic() > until:
                    raise
                time.sleep(self._every_s)
        ray.kill(self.queue.actor)

    def drain(self) -> None:
        """Pass on the events that have arrived. When it returns, those that the thread has taken are passed on too."""
        with self._draining:
            for event in self.queue.take():
                if isinstance(event, EventsLost):
                    log.warning(
                        "the process that collects the events of trainings was killed: a second of them is lost"
                    )
                else:
                    self._receive(event)

    def _poll(self) -> None:
        while not self._closed.wait(self._every_s):
            try:
                self.drain()
            except ActorUnavailableError:  # Ray starts it again, or reaches it again
                continue
            except RayActorError:  # for good: `close` raises it
                return
