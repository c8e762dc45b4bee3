"""What happens when a training loses workers, and what is said: else a job that waits for a lost host would seem to hang."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback

from facscale.train.task import Task

LENGTH = 200  # characters of a cause
GRACE = 2.0  # seconds in which Ray ends this process, if the whole job has ended


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
        let_job_end()


def let_job_end() -> None:
    """Wait as long as Ray takes to end this controller, if it ended its workers because the job's driver died.

    A controller that asked for new workers at once would get a placement group after Ray has removed those of the job:
    CPUs and GPUs that stay taken until the cluster ends.
    """
    time.sleep(GRACE)


def cause(error: Exception) -> str:
    """The last line of what Ray or the worker says: the first ones name classes and ids."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:LENGTH]
