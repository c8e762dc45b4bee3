"""The training loop inside a worker of Ray Train."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train import Checkpoint, CheckpointUploadMode

from facscale.train import checkpoint
from facscale.train.gauges import Exporter
from facscale.train.loop import Run
from facscale.train.task import Task
from facscale.train.worker import train_task


def train_on_ray(settings: Mapping[str, Task]) -> None:
    """Ray Train's `train_loop_per_worker`."""
    task = settings["task"]
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs every report to the root, whatever RunConfig says
    train_task(task, RaySession(task))


class RaySession:
    """A worker that Ray Train placed and started."""

    def __init__(self, task: Task) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._task = task
        self._exporter = Exporter(training=task.title or task.job.name, method=task.job.method.name)

    def restore(self) -> dict[str, Any]:
        """The latest checkpoint of the training; at its beginning, that of `task.resume` if it names one."""
        latest = ray.train.get_checkpoint()
        if latest is not None:
            with latest.as_directory() as folder:
                return checkpoint.read(Path(folder), name=latest.path)
        if self._task.resume:
            url = checkpoint.locate_latest(self._task.resume)
            with checkpoint.fetch(url) as folder:
                return checkpoint.read(folder, name=url)
        return {}

    def save(self, run: Run, figures: Mapping[str, float]) -> None:
        """Give it to Ray Train, which uploads it while training goes on, and then removes the local folder."""
        folder = checkpoint.write(run)
        written = None if folder is None else Checkpoint.from_directory(str(folder))
        ray.train.report(dict(figures), written, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)

    def export_gauges(self, run: Run, values: Mapping[str, float]) -> None:
        """Prometheus finds them on each node of Ray's."""
        self._exporter.tell(run, values)

    def is_preempted(self) -> bool:
        """What the node's provider told Ray."""
        return ray.train.get_preemption_info() is not None
