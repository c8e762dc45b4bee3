"""What happens when a training loses workers, or when they cannot reach each other, and how it is reported.

Left to itself, Ray Train 2.60 forgets the workers of a group whose process group cannot be formed: they and their
placement group stay, so that the next attempt waits for CPUs and GPUs that nobody gives back. And where all workers
live but do not reach each other, it ends the run for good.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.train import UserCallback
from ray.train.torch import TorchConfig

from facscale.compat.ray_train import TORCH_BACKEND, abort_training, forget_worker_group
from facscale.train.errors import is_permanent
from facscale.train.events import TrainingStarted, WorkersLost
from facscale.train.task import TrainingTask

MAX_CAUSE_LENGTH = 200  # characters
GRACE_S = 2.0  # in which Ray ends this process, if the whole job has ended
# Ray Train waits so long for new workers to start. For up to 20 s after a host is lost it still counts on that host, and
# an elastic job would wait a minute for workers there.
START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")


class WorkerFailureReporter(UserCallback):
    """Reports worker failures, so that a job that waits for a lost host does not look hung. Runs in Ray's controller."""

    def __init__(self, task: TrainingTask) -> None:
        self._task, self._reported = task, ""

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Arrive in the controller's process, which serves this training alone: its environment sets the start timeout."""
        self.__dict__ |= attributes
        if self._task.job.cluster.min_workers < self._task.job.cluster.max_workers:
            os.environ.setdefault(*START_TIMEOUT)

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:  # noqa: ARG002
        """Emit which workers failed, why, and what happens now.

        Raises an error that no restart can mend: Ray Train then ends all workers and the training, whatever is left of
        `cluster.max_failures`.
        """
        for _, error in sorted(worker_exceptions.items()):
            if is_permanent(error):
                logging.getLogger("ray.train").setLevel(
                    logging.CRITICAL
                )  # it would print how it handles this, at length
                raise error
        causes = "; ".join(f"worker {rank}: {get_cause(error)}" for rank, error in sorted(worker_exceptions.items()))
        if causes == self._reported:  # while a group shuts down, the same errors are polled again and again
            return
        self._reported = causes
        workers = self._task.job.cluster.min_workers
        self._task.emit(WorkersLost(f"{causes}; resumes from the latest checkpoint with {workers} or more workers"))
        let_job_end()


class RetryingTorchBackend(TORCH_BACKEND):
    """Forms torch's process group, and has Ray Train start new workers where that fails. Ray's controller holds one."""

    def on_start(self, worker_group: Any, backend_config: RetryingTorchConfig) -> None:
        """Form the group, or let all workers go; Ray Train then starts new ones, `cluster.max_failures` times."""
        task = backend_config.task
        if task.is_abortable:
            task.emit(TrainingStarted(partial(abort_training, ray.get_runtime_context().current_actor)))
        try:
            super().on_start(worker_group, backend_config)
        except (RayActorError, RayTaskError) as error:
            forget_worker_group(worker_group)
            backend_config.failures += 1
            if 0 <= task.job.cluster.max_failures < backend_config.failures:
                raise
            task.emit(WorkersLost(f"the workers cannot reach each other: {get_cause(error)}; trying again"))
            let_job_end()
            raise RayActorError from error  # the one failure of a start that Ray Train retries


@dataclass
class RetryingTorchConfig(TorchConfig):
    """Torch's process group for a task."""

    task: TrainingTask = None  # type: ignore[assignment]  # always given: the fields before it have defaults
    failures: int = 0  # starts at which the process group could not be formed

    @property
    def backend_cls(self) -> type[RetryingTorchBackend]:
        """The class that Ray Train instantiates."""
        return RetryingTorchBackend


def let_job_end() -> None:
    """Wait as long as Ray takes to end this controller, if it ended the workers because the job's driver died.

    A controller that asked for new workers at once would get a placement group after Ray has removed those of the job:
    CPUs and GPUs that stay taken until the cluster ends.
    """
    time.sleep(GRACE_S)


def get_cause(error: Exception) -> str:
    """The last line of an error of Ray or of a worker: the lines before it name classes and ids."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:MAX_CAUSE_LENGTH]
