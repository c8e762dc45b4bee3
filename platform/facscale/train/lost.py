"""What is said when a training loses workers: else a job that waits for a lost host would look as if it hung."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback

from facscale.train.task import Task

LENGTH = 200  # characters of a cause


class Losses(UserCallback):
    """Ray Train's controller calls it; it tells whoever watches the task."""

    def __init__(self, task: Task) -> None:
        self._task, self._told = task, ""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:  # noqa: ARG002
        """Say which workers failed, why, and what happens now."""
        causes = "; ".join(f"worker {rank}: {cause(error)}" for rank, error in sorted(worker_exceptions.items()))
        if causes == self._told:  # while a group winds up, the same errors are seen again and again
            return
        self._told = causes
        needed = self._task.job.cluster.fewest_workers
        self._task.tell("lost", note=f"{causes}; goes on from the latest checkpoint with {needed} or more workers")


def cause(error: Exception) -> str:
    """The last line of what Ray or the worker says: the first ones name classes and ids."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:LENGTH]
