"""Trainings side by side: as many as the cluster holds."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

from facscale.train.errors import is_permanent

Item = TypeVar("Item")
Result = TypeVar("Result")


class TrainingSlots:
    """Limits concurrent trainings to `count`; variants and folds may be scheduled freely.

    `slot` is held while a training runs.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.slot = threading.BoundedSemaphore(count)
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    def exclusive(self, name: str) -> threading.RLock:
        """A lock for one training: a variant that needs the same training waits, and then finds it finished."""
        return self._locks[name]

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results in the order of the items. All are tried; then the first error is raised.

        After an error that trying again cannot mend (`is_permanent`) no further item begins, because its siblings would
        meet it too; those that run go on. With one slot everything happens in the caller's own thread, one after the
        other, up to the first error.
        """
        if self.count == 1:
            return [call(item) for item in items]
        is_hopeless = threading.Event()

        def attempt(item: Item) -> Result:
            if is_hopeless.is_set():
                raise CancelledError
            try:
                return call(item)
            except BaseException as error:
                if is_permanent(error):
                    is_hopeless.set()
                raise

        with ThreadPoolExecutor(self.count) as pool:
            futures = [pool.submit(attempt, item) for item in items]
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error
        return [future.result() for future in futures]
