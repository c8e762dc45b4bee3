"""Trainings side by side: as many as the cluster holds."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """`count` of them. Rows and folds ask for work to be done side by side; `turn` keeps what trains within the count."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.turn = threading.BoundedSemaphore(count)
        self._places: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def alone(self, place: str) -> threading.Lock:
        """Held by whoever trains there; another row that wants the same training waits, and finds it done."""
        return self._places[place]

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results in the order of the items. All are tried; then the first error is raised.

        With one lane everything happens in the caller's own thread, one after the other, up to the first error.
        """
        if self.count == 1:
            return [call(item) for item in items]
        with ThreadPoolExecutor(self.count) as pool:
            futures = [pool.submit(call, item) for item in items]
        return [future.result() for future in futures]
