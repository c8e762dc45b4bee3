"""Watch a run from the process that started it, and kill one of its workers on the way."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil

from facscale.train.launch import fit, storage
from facscale.train.mailbox import Reader

REGISTERED = "checkpoint_manager_snapshot.json"  # Ray Train writes it once a run has a checkpoint to go on from


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
            if self.kill_at and self.killed is None and record["step"] >= self.kill_at and self._can_resume():
                self.killed = a_worker()
                os.kill(self.killed, signal.SIGKILL)

    def _can_resume(self):
        return self.registered is None or self.registered.exists()


def a_worker() -> int:
    """The process of a worker of this process's Ray."""
    workers = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
    return [p.pid for p in workers if os.getpid() in [parent.pid for parent in p.parents()]][-1]


def watched(task, *, name, kill_at=None):
    """Train `task`: the watcher, and the bytes of the export. A kill waits for the first checkpoint."""
    watcher = Watcher(kill_at, registered=Path(storage(task.job)) / name / REGISTERED)
    reader = Reader(watcher.receive, every=0.05)
    try:
        return watcher, fit(replace(task, mailbox=reader.mailbox), name=name)
    finally:
        reader.close()
