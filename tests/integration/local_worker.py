"""One of several processes that train together without Ray."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

from facscale.train.errors import TrainError
from facscale.train.local import LocalSession, LocalTrainer
from facscale.train.loop import TrainLoop
from facscale.train.trainer import storage_url
from integration.engine_worker import begin


class RecordingSession(LocalSession):
    """Keeps this worker's own method as it was at the last checkpoint."""

    def save(self, state, metrics):
        super().save(state, metrics)
        self.state = {name: value.clone() for name, value in state.method.state_dict().items()}


def fit(rank, world, port, tasks):
    """Fit each task of the pickled {name: task}."""
    begin(rank, world, port)
    for name, task in pickle.loads(Path(tasks).read_bytes()).items():
        LocalTrainer().fit(task, name=name)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def record(rank, world, port, tasks, folder):
    """Train each task of the pickled {name: task}, and leave this worker's weights in `folder`."""
    begin(rank, world, port)
    for name, task in pickle.loads(Path(tasks).read_bytes()).items():
        session = RecordingSession(task, f"{storage_url(task.job)}/{name}")
        TrainLoop(task, session).run()
        torch.save(session.state, Path(folder) / f"{name}-{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def fail(rank, world, port, tasks, folder):
    """Fit each task of the pickled {name: task}, which ends with a TrainError: its message goes to a file in `folder`."""
    begin(rank, world, port)
    for name, task in pickle.loads(Path(tasks).read_bytes()).items():
        try:
            LocalTrainer().fit(task, name=name)
        except TrainError as error:
            (Path(folder) / f"error-{rank}").write_text(str(error))
    os._exit(0)
