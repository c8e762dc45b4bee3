"""From a task to a trained method: what all trainers share, and where a training's files lie."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import fsspec
import torch

from facscale.errors import UserError
from facscale.inference import export
from facscale.spec import Job
from facscale.train import checkpoint
from facscale.train.plan import Plan
from facscale.train.task import Task
from facscale.train.worker import make_method, open_streams

SPENT = "spent.json"  # beside the export


class TrainError(UserError):
    """Training ended for good before its last step."""


class Trained(NamedTuple):
    """The exported method, and what it cost (`figures.spent`)."""

    exported: bytes
    spent: dict[str, float]


class Trainer(ABC):
    """Trains tasks. Trainers differ in where the loop runs, and in nothing that the weights depend on."""

    def fit(self, task: Task, *, name: str) -> bytes:
        """Train `task` and return the exported method (`methods.export`).

        `name` is the training's place under `cluster.storage`: the same name goes on from its latest checkpoint, and
        returns at once when it is complete. With nothing to train (0 epochs) the freshly initialised method is exported.
        """
        store, folder = fsspec.core.url_to_fs(f"{storage(task.job)}/{name}")
        if finished(task.job, name=name):
            return bytes(store.cat_file(f"{folder}/{checkpoint.EXPORT}"))
        has_steps = Plan(task.job, samples_per_epoch(task)).steps > 0
        done = self.train(task, name=name) if has_steps else Trained(initial(task), {})
        store.makedirs(folder, exist_ok=True)
        store.pipe_file(f"{folder}/{SPENT}", json.dumps(done.spent).encode())
        store.pipe_file(f"{folder}/{checkpoint.EXPORT}", done.exported)
        return done.exported

    @abstractmethod
    def train(self, task: Task, *, name: str) -> Trained:
        """Train to the last step of the plan, from the latest checkpoint of the training called `name` on."""


def exported_at(job: Job, *, name: str) -> str:
    """The URL of the exported method of the training called `name`."""
    return f"{storage(job)}/{name}/{checkpoint.EXPORT}"


def finished(job: Job, *, name: str) -> bool:
    """Whether the training called `name` is complete."""
    store, folder = fsspec.core.url_to_fs(f"{storage(job)}/{name}")
    return bool(store.exists(f"{folder}/{checkpoint.EXPORT}"))


def adopt(job: Job, *, name: str, other: str) -> None:
    """Let the complete training `other` be the one called `name` too."""
    store, folder = fsspec.core.url_to_fs(storage(job))
    store.makedirs(f"{folder}/{name}", exist_ok=True)
    for file in (SPENT, checkpoint.EXPORT):  # the export last: it says that all is there
        store.pipe_file(f"{folder}/{name}/{file}", store.cat_file(f"{folder}/{other}/{file}"))


def spent(job: Job, *, name: str) -> dict[str, float]:
    """What the training called `name` cost, once `fit` has returned: seconds_per_step, peak_memory_gb; empty for 0 epochs."""
    with fsspec.open(f"{storage(job)}/{name}/{SPENT}") as file:
        figures: dict[str, float] = json.load(file)
    return figures


def initial(task: Task) -> bytes:
    """The method as `task` initialises it, exported."""
    torch.manual_seed(task.job.seed)
    return export.save(make_method(task))


def samples_per_epoch(task: Task) -> int:
    """Of the stream that sets the epoch."""
    return next(iter(open_streams(task, rank=0, world=1, pin=False).values())).samples_per_epoch


def storage(job: Job) -> str:
    """`cluster.storage` with an absolute path."""
    return absolute(job.cluster.storage)


def absolute(url: str) -> str:
    """A URL as it is, a path from the root on."""
    return url if "://" in url else str(Path(url).expanduser().absolute())
