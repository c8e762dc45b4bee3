"""Training without Ray: in this process, or in those that torchrun starts. For tests, notebooks and a single machine."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed

from facscale.compat.ray_checkpoints import CHECKPOINT_PREFIX
from facscale.data.storage import open_fsspec
from facscale.train import checkpoint
from facscale.train.checkpoint_record import list_resumable, list_stored, read_record, repair_record, write_record
from facscale.train.events import CheckpointPassedOver, Event
from facscale.train.loop import train
from facscale.train.state import TrainState
from facscale.train.task import TrainingTask
from facscale.train.trainer import Receiver, TrainedArtifact, Trainer, load_or_initialize, storage_url, store_artifact

log = logging.getLogger(__name__)


class LocalTrainer(Trainer):
    """Trains with one worker in this process, or with one in each process of the process group that it finds.

    Workers and CPUs of `cluster:` do not matter; a GPU is used where `cluster.gpus_per_worker` is not 0. An interrupted
    training (Ctrl-C in a notebook) resumes from its latest checkpoint when it is fitted again.
    """

    def fit(self, task: TrainingTask, *, name: str, receive: Receiver | None = None) -> TrainedArtifact:
        """As `Trainer.fit`, in this process. An error that `receive` raises ends the training."""
        if artifact := load_or_initialize(task, name=name):
            return artifact
        folder = f"{storage_url(task.job)}/{name}"
        if repaired := repair_record(folder):
            log.warning("%s", repaired)
        if receive:
            task = replace(task, events=CallbackSink(receive))
        join_process_group(has_gpu=task.job.cluster.gpus_per_worker > 0)
        train(task, self.make_session(task, folder))
        if distributed.get_world_size() > 1:
            distributed.barrier()  # the last checkpoint is rank 0's to write
        latest, metrics = read_record(folder)[-1]  # the last step of every schedule writes one
        with checkpoint.fetch(f"{folder}/{latest}") as files:
            exported = checkpoint.read_export(files, name=f"{folder}/{latest}")
        cost = {metric: float(value) for metric, value in metrics.items() if metric != "step"}
        return store_artifact(task.job, name=name, export=exported, cost=cost)

    def make_session(self, task: TrainingTask, folder: str) -> LocalSession:
        """The session of a training whose files are in the folder at a URL."""
        return LocalSession(task, folder)


def join_process_group(*, has_gpu: bool) -> None:
    """Join torchrun's process group, or make one of this process alone, unless there is one. It lasts as the process does."""
    if distributed.is_initialized():
        return
    backend = "nccl" if has_gpu else "gloo"
    if distributed.is_torchelastic_launched():
        if has_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group(backend)
    else:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it; torchrun would set it, to the same value
        store = distributed.HashStore()  # type: ignore[attr-defined]  # exported, but not by name
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)


class LocalSession:
    """A worker in a process that its user started; checkpoints are folders under the URL `training`."""

    def __init__(self, task: TrainingTask, training: str) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        on_gpu = task.job.cluster.gpus_per_worker > 0
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._task, self._training = task, training
        self._store, self._folder = open_fsspec(training)

    def restore(self) -> dict[str, Any]:
        """Read the latest checkpoint of the training; without one, the state at `task.resume_from` if it is given.

        A damaged one is passed over for the one before it.
        """
        stored = list_stored(self._training)
        if not stored and self._task.resume_from:
            stored = list_resumable(self._task.resume_from)
        return checkpoint.restore(stored, report=self._report_damage)

    def _report_damage(self, reason: str) -> None:
        if self.rank == 0:
            self._task.emit(CheckpointPassedOver(reason))

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Upload a checkpoint, then record it, then remove those beyond `train.keep_checkpoints`."""
        written = checkpoint.write(state, metrics)
        if written is None:
            return
        name = f"{CHECKPOINT_PREFIX}{state.step:09d}"
        self._store.makedirs(f"{self._folder}/{name}", exist_ok=True)
        self._store.put(f"{written}/", f"{self._folder}/{name}/", recursive=True)
        shutil.rmtree(written)
        entries = [entry for entry in read_record(self._training) if entry[0] != name]
        entries.append((name, metrics))
        keep = self._task.job.train.keep_checkpoints
        write_record(self._training, entries[-keep:])
        for earlier, _ in entries[:-keep]:
            self._store.rm(f"{self._folder}/{earlier}", recursive=True)

    def export_gauges(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Do nothing: no monitoring scrapes a process like this."""

    def is_preempted(self) -> bool:
        """Never: nobody announces that such a process will be taken away."""
        return False


@dataclass(frozen=True)
class CallbackSink:
    """An event sink that passes each event to `receive` at once, in the worker's own process."""

    receive: Callable[[Event], None]

    def put(self, event: Event) -> None:
        """Pass an event on."""
        self.receive(event)
