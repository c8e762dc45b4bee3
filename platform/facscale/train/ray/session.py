"""The training loop inside a worker of Ray Train."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray.train
import ray.train.torch
from ray.train import Checkpoint, CheckpointConsistencyMode, CheckpointUploadMode

from facscale.compat.ray_train import is_preemption_announced
from facscale.train import checkpoint
from facscale.train.checkpoint_record import list_resumable
from facscale.train.events import CheckpointPassedOver
from facscale.train.gauges import GaugeExporter
from facscale.train.loop import train
from facscale.train.state import TrainState
from facscale.train.task import TrainingTask

LIST_S = 60.0  # after which the checkpoints that Ray Train knows are used, also if a report is not complete


def train_on_worker(settings: Mapping[str, TrainingTask]) -> None:
    """Ray Train's `train_loop_per_worker`."""
    task = settings["task"]
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs every report to the root, whatever RunConfig says
    train(task, RaySession(task))


class RaySession:
    """A worker that Ray Train placed and started."""

    def __init__(self, task: TrainingTask) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._task = task
        self._exporter = GaugeExporter(training=task.name or task.job.name, method=task.job.method.name)

    def restore(self) -> dict[str, Any]:
        """Read the latest checkpoint of the training; without one, the state at `task.resume_from` if it is given.

        A damaged one is passed over for the one before it.
        """
        stored: list[checkpoint.StoredCheckpoint] = []
        if ray.train.get_checkpoint() is not None:
            reported = ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED, timeout_s=LIST_S)
            stored = checkpoint.sort_newest_first(
                [
                    checkpoint.StoredCheckpoint(
                        kept.checkpoint.path, kept.checkpoint.as_directory, int(kept.metrics["step"])
                    )
                    for kept in reported
                ]
            )
        elif self._task.resume_from:
            stored = list_resumable(self._task.resume_from)
        return checkpoint.restore(stored, report=self._report_damage)

    def _report_damage(self, reason: str) -> None:
        if self.rank == 0:
            self._task.emit(CheckpointPassedOver(reason))

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Pass a checkpoint to Ray Train, which uploads it while training continues, then removes the local folder."""
        folder = checkpoint.write(state, metrics)
        written = None if folder is None else Checkpoint.from_directory(str(folder))
        ray.train.report(dict(metrics), written, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)

    def export_gauges(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Export to Prometheus, which finds the gauges on each node of Ray."""
        self._exporter.export(state, values)

    def is_preempted(self) -> bool:
        """Whether the node's provider has announced to Ray that it takes the node away."""
        return is_preemption_announced()
