"""Trainings side by side: as many as the cluster holds, and all of them ended when one has failed for good."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from facscale.train.errors import is_permanent

Item = TypeVar("Item")
Result = TypeVar("Result")


class RunningTraining:
    """One training that holds a slot. Safe for use by several threads."""

    def __init__(self) -> None:
        self.is_aborted = False
        self._abort: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def set_abort(self, abort: Callable[[], object]) -> None:
        """Say how the training is ended early, anew after each of its restarts; at once if it should have ended already."""
        with self._lock:
            self._abort = abort
            is_late = self.is_aborted
        if is_late:
            abort()

    def abort(self) -> None:
        """End the training early, now or as soon as it can be."""
        with self._lock:
            self.is_aborted = True
            abort = self._abort
        if abort is not None:
            abort()


class TrainingSlots:
    """Limits concurrent trainings to `count`; variants and folds may be scheduled freely.

    After an error that trying again cannot mend (`is_permanent`) the job has failed, whatever its other trainings give:
    none begins any more, and those that run are aborted. Their checkpoints stay.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._slot = threading.BoundedSemaphore(count)
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._running: set[RunningTraining] = set()
        self._has_failed = False
        self._guard = threading.Lock()

    def exclusive(self, name: str) -> threading.RLock:
        """A lock for one training: a variant that needs the same training waits, and then finds it finished."""
        return self._locks[name]

    @contextmanager
    def hold(self) -> Iterator[RunningTraining]:
        """Hold a slot while a training runs.

        Raises CancelledError where the job has failed before the training began, or the training was aborted.
        """
        training = RunningTraining()
        with self._slot:
            with self._guard:
                if self._has_failed:
                    raise CancelledError
                self._running.add(training)
            try:
                yield training
            except Exception as error:
                if training.is_aborted:
                    raise CancelledError from error
                raise
            finally:
                with self._guard:
                    self._running.discard(training)

    def fail(self, cause: RunningTraining | None = None) -> bool:
        """Let no training begin any more, and abort those that run but for `cause`; False if that was done before."""
        with self._guard:
            is_first, self._has_failed = not self._has_failed, True
            others = self._running - {cause} if is_first else set()
        for training in others:
            training.abort()
        return is_first

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results in the order of the items. All are tried until the job has failed; then the first error is raised.

        With one slot everything happens in the caller's own thread, one after the other, up to the first error.
        """
        if self.count == 1:
            return [call(item) for item in items]

        def attempt(item: Item) -> Result:
            if self._has_failed:
                raise CancelledError
            try:
                return call(item)
            except BaseException as error:
                if is_permanent(error):
                    self.fail()
                raise

        with ThreadPoolExecutor(self.count) as pool:
            futures = [pool.submit(attempt, item) for item in items]
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error
        return [future.result() for future in futures]
