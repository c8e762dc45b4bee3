"""Watch a training from the process that started it, and end it, or one of its workers, on the way."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from facscale.train import checkpoint
from facscale.train.local import DirectMailbox, LocalTrainer
from facscale.train.mailbox import Reader
from facscale.train.ray.launch import RayTrainer
from facscale.train.trainer import storage


class Watcher:
    """Remembers the records, and kills a worker with -9 when a step is reached for the first time."""

    def __init__(self, kill_at: int | None = None, *, registered: Path | None = None):
        """`registered`: and not before this file is there."""
        self.kill_at, self.registered, self.killed = kill_at, registered, None
        self.steps, self.notes, self.metrics, self.pictures = [], [], set(), []

    def receive(self, kind, **record):
        if kind == "progress":
            self.notes.append(record["note"])
        if kind == "pictures":
            self.pictures.append((record["step"], {name: column.shape for name, column in record["columns"].items()}))
        if kind == "metrics":
            self.metrics |= record["values"].keys()
        if kind == "metrics" and "learning_rate" in record["values"]:
            self.steps.append(record["step"])
            if self._is_due(record):
                self.killed = a_worker()
                os.kill(self.killed, signal.SIGKILL)

    def _is_due(self, record):
        """Whether a worker is to be killed now."""
        if not self.kill_at or self.killed is not None or record["step"] < self.kill_at:
            return False
        return self.registered is None or self.registered.exists()


def a_worker() -> int:
    """The process of a worker of this process's Ray."""
    workers = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
    return [p.pid for p in workers if os.getpid() in [parent.pid for parent in p.parents()]][-1]


class Interrupted(Exception):  # noqa: N818 - as KeyboardInterrupt, which it stands for
    """Somebody ends a training in this process."""


class Interrupter(Watcher):
    """Remembers the records, and raises Interrupted when a step is reached for the first time."""

    def receive(self, kind, **record):
        super().receive(kind, **record)
        if self.kill_at and self.killed is None and self.steps and self.steps[-1] >= self.kill_at:
            self.killed = os.getpid()
            raise Interrupted

    def _is_due(self, record):
        return False


def interrupted(task, *, name, stop_at):
    """Train `task` in this process, interrupted after step `stop_at`, and again to its end: watcher and export."""
    watcher = Interrupter(stop_at)
    own = replace(task, mailbox=DirectMailbox(watcher.receive))
    with pytest.raises(Interrupted):
        LocalTrainer().fit(own, name=name)
    return watcher, LocalTrainer().fit(own, name=name)


def watched(task, *, name, kill_at=None):
    """Train `task` on Ray: the watcher, and the bytes of the export. A kill waits for the first checkpoint."""
    watcher = Watcher(kill_at, registered=Path(storage(task.job)) / name / checkpoint.OF_RAY)
    reader = Reader(watcher.receive, every=0.05)
    try:
        return watcher, RayTrainer().fit(replace(task, mailbox=reader.mailbox), name=name)
    finally:
        reader.close()
