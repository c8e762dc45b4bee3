"""Training without Ray: in this process, or in those that torchrun starts. For tests, notebooks and a single machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import torch
from torch import distributed

from facscale.train import checkpoint
from facscale.train.loop import Run
from facscale.train.task import Task
from facscale.train.trainer import Trained, Trainer, storage
from facscale.train.worker import train_task

RECORD = "local_checkpoints.json"  # written after a checkpoint is whole: what it does not name does not count


class LocalTrainer(Trainer):
    """Trains with one worker in this process, or with one in each process of the process group that it finds.

    What `cluster:` says of workers and CPUs does not matter; a GPU is used where `cluster.gpus_per_worker` is not 0.
    An interrupted training (Ctrl-C in a notebook) goes on from its latest checkpoint when it is fitted again.
    """

    def train(self, task: Task, *, name: str) -> Trained:
        """Train in this process."""
        join_process_group(has_gpu=task.job.cluster.gpus_per_worker > 0)
        session = LocalSession(task, f"{storage(task.job)}/{name}")
        train_task(task, session)
        if distributed.get_world_size() > 1:
            distributed.barrier()  # the last checkpoint is rank 0's to write
        latest = session.latest()
        assert latest is not None, "the last step of every plan writes one"
        with checkpoint.fetch(latest.url) as folder:
            return Trained((folder / checkpoint.EXPORT).read_bytes(), latest.cost)


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
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it, and torchrun would set it
        store = distributed.HashStore()  # type: ignore[attr-defined]  # exported, but not by name
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)


@dataclass(frozen=True)
class Kept:
    """A checkpoint that is whole."""

    url: str
    figures: Mapping[str, float]

    @property
    def cost(self) -> dict[str, float]:
        """Its figures without the step."""
        return {name: float(value) for name, value in self.figures.items() if name != "step"}


class LocalSession:
    """A worker that is a process of its user's own; checkpoints lie in folders under the URL `training`."""

    def __init__(self, task: Task, training: str) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        on_gpu = task.job.cluster.gpus_per_worker > 0
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._task, self._training = task, training
        self._store, self._folder = fsspec.core.url_to_fs(training)

    def latest(self) -> Kept | None:
        """The newest checkpoint that is whole."""
        kept = self._kept()
        return Kept(f"{self._training}/{kept[-1]['folder']}", kept[-1]["figures"]) if kept else None

    def restore(self) -> dict[str, Any]:
        """The latest checkpoint of the training; at its beginning, that of `task.resume` if it names one."""
        latest = self.latest()
        url = latest.url if latest else checkpoint.locate_latest(self._task.resume) if self._task.resume else ""
        if not url:
            return {}
        with checkpoint.fetch(url) as folder:
            return checkpoint.read(folder, name=url)

    def save(self, run: Run, figures: Mapping[str, float]) -> None:
        """Upload it, then record it, then remove those beyond `train.keep_checkpoints`."""
        written = checkpoint.write(run)
        if written is None:
            return
        name = f"checkpoint_{run.step:09d}"
        self._store.makedirs(f"{self._folder}/{name}", exist_ok=True)
        self._store.put(f"{written}/", f"{self._folder}/{name}/", recursive=True)
        shutil.rmtree(written)
        known = [one for one in self._kept() if one["folder"] != name]
        kept = [*known, {"folder": name, "figures": dict(figures)}]
        keep = self._task.job.train.keep_checkpoints
        self._store.pipe_file(f"{self._folder}/{RECORD}", json.dumps(kept[-keep:]).encode())
        for old in kept[:-keep]:
            self._store.rm(f"{self._folder}/{old['folder']}", recursive=True)

    def export_gauges(self, run: Run, values: Mapping[str, float]) -> None:
        """Nobody scrapes a process of its user's own."""

    def is_preempted(self) -> bool:
        """Nobody takes it away with a warning."""
        return False

    def _kept(self) -> list[dict[str, Any]]:
        """The record of whole checkpoints, the oldest first."""
        place = f"{self._folder}/{RECORD}"
        kept: list[dict[str, Any]] = json.loads(self._store.cat_file(place)) if self._store.exists(place) else []
        return kept


@dataclass(frozen=True)
class DirectMailbox:
    """A mailbox that hands each record to `receive(kind, **record)` at once, in the worker's own process."""

    receive: Callable[..., None]

    def put(self, kind: str, record: dict[str, Any]) -> None:
        """Hand it over."""
        self.receive(kind, **record)
