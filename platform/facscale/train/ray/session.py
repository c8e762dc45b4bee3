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
from facscale.train.gauges import GaugeExporter
from facscale.train.loop import TrainLoop
from facscale.train.state import TrainState
from facscale.train.task import TrainingTask


def train_on_worker(settings: Mapping[str, TrainingTask]) -> None:
    """Ray Train's `train_loop_per_worker`."""
    task = settings["task"]
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs every report to the root, whatever RunConfig says
    TrainLoop(task, RaySession(task)).run()


class RaySession:
    """A worker that Ray Train placed and started."""

    def __init__(self, task: TrainingTask) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._task = task
        self._exporter = GaugeExporter(training=task.name or task.job.name, method=task.job.method.name)

    def restore(self) -> dict[str, Any]:
        """Read the latest checkpoint of the training; without one, the state at `task.resume_from` if it is given."""
        latest = ray.train.get_checkpoint()
        if latest is not None:
            with latest.as_directory() as folder:
                return checkpoint.read(Path(folder), name=latest.path)
        if self._task.resume_from:
            return checkpoint.read_resume_point(self._task.resume_from)
        return {}

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Pass a checkpoint to Ray Train, which uploads it while training continues, then removes the local folder."""
        folder = checkpoint.write(state)
        written = None if folder is None else Checkpoint.from_directory(str(folder))
        ray.train.report(dict(metrics), written, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)

    def export_gauges(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Export to Prometheus, which finds the gauges on each node of Ray."""
        self._exporter.export(state, values)

    def is_preempted(self) -> bool:
        """Whether the node's provider has announced to Ray that it takes the node away."""
        return ray.train.get_preemption_info() is not None
