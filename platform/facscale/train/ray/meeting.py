"""How workers come together, and what happens where they do not: a host is lost, or two do not reach each other.

Left to itself, Ray Train 2.60 forgets the workers of a group whose process group cannot be formed: they and their
placement group stay, so that the next attempt waits for CPUs and GPUs that nobody gives back. And where all of them
live but do not reach each other, it ends the run for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.train.torch import TorchConfig

from facscale.train.ray.lost import cause, let_job_end
from facscale.train.task import Task

TORCH: Any = TorchConfig().backend_cls


class Meeting(TORCH):
    """Forms torch's process group; Ray Train's controller has one."""

    def on_start(self, worker_group: Any, backend_config: Together) -> None:
        """Form it, or let all workers go and Ray Train start new ones, `cluster.max_failures` times."""
        task = backend_config.task
        if task.endable:
            task.tell("controlled", by=ray.get_runtime_context().current_actor)
        try:
            super().on_start(worker_group, backend_config)
        except (RayActorError, RayTaskError) as error:
            worker_group._clear_state()  # noqa: SLF001 - for Ray it is then not started yet, and is ended with all it holds
            backend_config.failures += 1
            if 0 <= task.job.cluster.max_failures < backend_config.failures:
                raise
            task.tell("lost", note=f"the workers do not come together: {cause(error)}; they try again")
            let_job_end()
            raise RayActorError from error  # to Ray the one failure of a start that is worth another one


@dataclass
class Together(TorchConfig):
    """Torch's process group for a task."""

    task: Task = None  # type: ignore[assignment]  # always given: the fields before it have defaults
    failures: int = 0  # starts at which it could not be formed

    @property
    def backend_cls(self) -> type[Meeting]:
        """Who forms it."""
        return Meeting
