"""Watch a training from the process that started it, and end it, or one of its workers, on the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from facscale.train.events import SampleImages, StepMetrics, StepProgress
from facscale.train.local import LocalTrainer
from facscale.train.ray.launch import RayTrainer
from facscale.train.trainer import storage_url

CHECKPOINTS = "checkpoint_manager_snapshot.json"  # Ray Train's own record of a training's checkpoints


class Watcher:
    """Remembers the events, and kills a worker with -9 when a step is reached for the first time."""

    def __init__(self, kill_at: int | None = None, *, registered: Path | None = None):
        """`registered`: and not before this file is there."""
        self.kill_at, self.registered, self.killed = kill_at, registered, None
        self.steps, self.notes, self.metrics, self.pictures = [], [], set(), []

    def receive(self, event):
        if isinstance(event, StepProgress):
            self.notes.append(event.note)
        if isinstance(event, SampleImages):
            self.pictures.append((event.step, {name: column.shape for name, column in event.columns.items()}))
        if isinstance(event, StepMetrics):
            self.metrics |= event.values.keys()
        if isinstance(event, StepMetrics) and "learning_rate" in event.values:
            self.steps.append(event.step)
            if self._is_due(event.step):
                self.killed = a_worker()
                os.kill(self.killed, signal.SIGKILL)

    def _is_due(self, step):
        """Whether a worker is to be killed now."""
        if not self.kill_at or self.killed is not None or step < self.kill_at:
            return False
        return self.registered is None or self.registered.exists()


def a_worker() -> int:
    """The process of a worker of this process's Ray."""
    workers = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
    return [p.pid for p in workers if os.getpid() in [parent.pid for parent in p.parents()]][-1]


class Interrupted(Exception):  # noqa: N818 - as KeyboardInterrupt, which it stands for
    """Somebody ends a training in this process."""


class Interrupter(Watcher):
    """Remembers the events, and raises Interrupted when a step is reached for the first time."""

    def receive(self, event):
        super().receive(event)
        if self.kill_at and self.killed is None and self.steps and self.steps[-1] >= self.kill_at:
            self.killed = os.getpid()
            raise Interrupted

    def _is_due(self, step):
        return False


def interrupted(task, *, name, stop_at):
    """Train `task` in this process, interrupted after step `stop_at`, and again to its end: watcher and export."""
    watcher = Interrupter(stop_at)
    with pytest.raises(Interrupted):
        LocalTrainer().fit(task, name=name, receive=watcher.receive)
    return watcher, LocalTrainer().fit(task, name=name, receive=watcher.receive).export


def watched(task, *, name, kill_at=None):
    """Train `task` on Ray: the watcher, and the bytes of the export. A kill waits for the first checkpoint."""
    watcher = Watcher(kill_at, registered=Path(storage_url(task.job)) / name / CHECKPOINTS)
    return watcher, RayTrainer().fit(task, name=name, receive=watcher.receive).export
