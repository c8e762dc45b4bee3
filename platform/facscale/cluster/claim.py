"""Claims: of all processes on a Ray cluster one at a time holds a name, so that no job or training runs twice at once.

A claim is an actor with that name. Ray ends it with the process that made it, however that process ends.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facscale.errors import UserError

NAMESPACE = "facscale"
ENDING_S = 10.0  # in which the cluster notices that a holder has died
ANSWER_S = 10.0
POLL_S = 0.5


class ClaimedError(UserError):
    """Another process holds a name."""


@ray.remote(num_cpus=0)
class ClaimHolder:
    """Holds a name as long as it lives."""

    def __init__(self, description: str) -> None:
        self._description = description

    def describe(self) -> str:
        """Who holds the name, and since when."""
        return self._description


def describe_process() -> str:
    """As in "process 4711 on node3 since 2026-11-29 21:05"."""
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


@contextmanager
def claim(name: str, *, description: str) -> Iterator[None]:
    """Hold a name for the block. Raises ClaimedError, whose message is the holder's description, where another does."""
    holder = acquire(name, description=description)
    try:
        yield
    finally:
        with suppress(RayError, ConnectionError, RuntimeError):  # the cluster may be gone
            ray.kill(holder)


def acquire(name: str, *, description: str) -> Any:
    """Become the holder of a name: returns the actor. Raises ClaimedError where another process still is after ENDING_S."""
    deadline = time.monotonic() + ENDING_S
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "scheduling_strategy": here}
    while True:
        try:
            return ClaimHolder.options(**options).remote(description)  # type: ignore[attr-defined]  # Ray adds it
        except ValueError:  # the name is taken
            other = describe_holder(name)
        if time.monotonic() > deadline:
            raise ClaimedError(other or "a process that is ending")
        time.sleep(POLL_S)


def describe_holder(name: str) -> str:
    """What the holder of a name says of itself; "" where nobody holds it any more."""
    try:
        description: str = ray.get(ray.get_actor(name, namespace=NAMESPACE).describe.remote(), timeout=ANSWER_S)
    except (ValueError, RayActorError):
        return ""
    except GetTimeoutError:
        return "a process that does not answer"
    return description
