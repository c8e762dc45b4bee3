"""From a task to a trained method: what all trainers share, and where the files of a training are."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import fsspec
import torch

from facscale.errors import UserError
from facscale.inference import export
from facscale.spec import Job
from facscale.train import checkpoint
from facscale.train.events import Event
from facscale.train.schedule import Schedule
from facscale.train.setup import make_method, open_streams
from facscale.train.task import TrainingTask

COST = "spent.json"  # beside the export
Receiver = Callable[[Event], None]


class TrainError(UserError):
    """A training ended for good before its last step."""


@dataclass(frozen=True)
class TrainedArtifact:
    """The exported method of a complete training."""

    url: str
    export: bytes
    cost: Mapping[str, float]  # `metrics.measure_cost`: seconds_per_step, peak_memory_gb; empty for 0 epochs

    @property
    def sha256(self) -> str:
        """Checksum of the export, hexadecimal."""
        return hashlib.sha256(self.export).hexdigest()


class Trainer(ABC):
    """Trains tasks. Trainers differ in where the loop runs, and in nothing that the weights depend on."""

    @abstractmethod
    def fit(self, task: TrainingTask, *, name: str, receive: Receiver | None = None) -> TrainedArtifact:
        """Train `task` to the last step of its schedule and keep the exported method. `receive` is called with its events.

        `name` is the folder of the training under `cluster.storage`: the same name resumes from its latest checkpoint,
        and returns at once when the training is complete. With nothing to train (0 epochs) the freshly initialised
        method is exported.
        """


def load_or_initialize(task: TrainingTask, *, name: str) -> TrainedArtifact | None:
    """The artifact of a training that needs no step: it is complete already, or has 0 epochs. Else None."""
    if is_finished(task.job, name=name):
        return load_artifact(task.job, name=name)
    if Schedule(task.job, count_samples_per_epoch(task)).steps == 0:
        return store_artifact(task.job, name=name, export=initialize(task), cost={})
    return None


def store_artifact(job: Job, *, name: str, export: bytes, cost: Mapping[str, float]) -> TrainedArtifact:
    """Keep what a training made; from then on it is finished."""
    store, folder = fsspec.core.url_to_fs(f"{storage_url(job)}/{name}")
    store.makedirs(folder, exist_ok=True)
    store.pipe_file(f"{folder}/{COST}", json.dumps(dict(cost)).encode())
    store.pipe_file(f"{folder}/{checkpoint.EXPORT}", export)  # last: it marks the training as finished
    return TrainedArtifact(export_url(job, name=name), export, dict(cost))


def load_artifact(job: Job, *, name: str) -> TrainedArtifact:
    """What the finished training called `name` made."""
    store, folder = fsspec.core.url_to_fs(f"{storage_url(job)}/{name}")
    cost = json.loads(store.cat_file(f"{folder}/{COST}"))
    return TrainedArtifact(export_url(job, name=name), bytes(store.cat_file(f"{folder}/{checkpoint.EXPORT}")), cost)


def link_artifact(job: Job, *, name: str, source: str) -> None:
    """Copy what the finished training `source` made to the training `name`, which then is finished too."""
    artifact = load_artifact(job, name=source)
    store_artifact(job, name=name, export=artifact.export, cost=artifact.cost)


def export_url(job: Job, *, name: str) -> str:
    """Where the training called `name` keeps its exported method."""
    return f"{storage_url(job)}/{name}/{checkpoint.EXPORT}"


def is_finished(job: Job, *, name: str) -> bool:
    """Whether the training called `name` is complete."""
    store, folder = fsspec.core.url_to_fs(f"{storage_url(job)}/{name}")
    return bool(store.exists(f"{folder}/{checkpoint.EXPORT}"))


def initialize(task: TrainingTask) -> bytes:
    """Export the method as `task` initialises it."""
    torch.manual_seed(task.job.seed)
    return export.save_export(make_method(task))


def count_samples_per_epoch(task: TrainingTask) -> int:
    """Samples of one epoch of the stream that sets the epoch."""
    return next(iter(open_streams(task, rank=0, world=1, pin=False).values())).samples_per_epoch


def storage_url(job: Job) -> str:
    """`cluster.storage` with an absolute path."""
    return make_absolute(job.cluster.storage)


def make_absolute(url: str) -> str:
    """Return a URL as it is, and a path as an absolute one."""
    return url if "://" in url else str(Path(url).expanduser().absolute())
