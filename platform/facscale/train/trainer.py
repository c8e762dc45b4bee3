"""From a task to a trained method: what all trainers share, and where the files of a training are."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from facscale.data.storage import Folder, open_fsspec
from facscale.inference import export
from facscale.spec import Job
from facscale.train import checkpoint
from facscale.train.errors import TrainError
from facscale.train.events import Event
from facscale.train.schedule import Schedule
from facscale.train.setup import make_method, open_streams
from facscale.train.task import TrainingTask

COST = "spent.json"  # beside the export, whose checksum it holds as well
CHECKSUM = "sha256"
log = logging.getLogger(__name__)
Receiver = Callable[[Event], None]


class DamagedExportError(TrainError):
    """The files that a finished training left are not those that were stored. Run the job again: it makes them anew."""


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

    def release(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give back what is held for further trainings alone, as evaluations may need it. Safe beside trainings."""


def load_or_initialize(task: TrainingTask, *, name: str) -> TrainedArtifact | None:
    """The artifact of a training that needs no step: it is complete already, or has 0 epochs. Else None.

    An export that is not what was stored is made again, from the latest checkpoint.
    """
    if is_finished(task.job, name=name):
        try:
            return load_artifact(task.job, name=name)
        except DamagedExportError as error:
            log.warning("%s; it is made again, from the latest checkpoint if there is one", error)
            store, path = open_fsspec(export_url(task.job, name=name))
            store.rm_file(path)
    if Schedule(task.job, count_samples_per_epoch(task)).steps == 0:
        return store_artifact(task.job, name=name, export=initialize(task), cost={})
    return None


def store_artifact(job: Job, *, name: str, export: bytes, cost: Mapping[str, float]) -> TrainedArtifact:
    """Keep what a training made; from then on it is finished. Raises NoSpaceError, StoreError.

    The checksum is stored first, the export, whose presence says that the training is finished, last. Both appear
    complete or not at all.
    """
    folder = Folder(f"{storage_url(job)}/{name}")
    artifact = TrainedArtifact(export_url(job, name=name), export, dict(cost))
    folder.write(COST, json.dumps({**cost, CHECKSUM: artifact.sha256}).encode())
    folder.write(checkpoint.EXPORT, export)
    return artifact


def load_artifact(job: Job, *, name: str) -> TrainedArtifact:
    """What the finished training called `name` made. Raises DamagedExportError where its files are not what was stored."""
    store, folder = open_fsspec(f"{storage_url(job)}/{name}")
    export = bytes(store.cat_file(f"{folder}/{checkpoint.EXPORT}"))
    try:
        cost = json.loads(store.cat_file(f"{folder}/{COST}"))
        checksum = cost.pop(CHECKSUM, None)  # trainings of older versions have none
        artifact = TrainedArtifact(export_url(job, name=name), export, {key: float(cost[key]) for key in cost})
    except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
        raise DamagedExportError(f"{storage_url(job)}/{name}/{COST} is damaged or lost ({error})") from None
    if artifact.sha256 != checksum if checksum else not is_complete(export):
        raise DamagedExportError(f"{artifact.url} is damaged: it is not the file that was stored")
    return artifact


def is_complete(export: bytes) -> bool:
    """Whether the header of a safetensors file fits its length."""
    try:
        safetensors.torch.load(export)
    except (SafetensorError, ValueError):
        return False
    return True


def link_artifact(job: Job, *, name: str, source: str) -> None:
    """Copy what the finished training `source` made to the training `name`, which then is finished too."""
    artifact = load_artifact(job, name=source)
    store_artifact(job, name=name, export=artifact.export, cost=artifact.cost)


def export_url(job: Job, *, name: str) -> str:
    """Where the training called `name` keeps its exported method."""
    return f"{storage_url(job)}/{name}/{checkpoint.EXPORT}"


def is_finished(job: Job, *, name: str) -> bool:
    """Whether the training called `name` is complete."""
    store, folder = open_fsspec(f"{storage_url(job)}/{name}")
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
