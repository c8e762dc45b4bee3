"""Trainings with one worker, in processes that stay for the next training of the job.

Ray Train starts a controller with helpers of its own for each training, about a gigabyte on the head, and a worker, which
loads torch and DeepSpeed anew. Trainings that fit in one process need neither.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from facscale.compat.ray import is_own_node_draining
from facscale.errors import UserError
from facscale.spec import Job
from facscale.train.errors import TrainError, is_permanent
from facscale.train.events import Event, TrainingStarted, WorkersLost
from facscale.train.gauges import GaugeExporter
from facscale.train.local import LocalSession, LocalTrainer
from facscale.train.ray.launch import RayTrainer, claim_training, make_worker_environment, name_error
from facscale.train.ray.worker_failures import get_cause
from facscale.train.state import TrainState
from facscale.train.task import TrainingTask
from facscale.train.trainer import Receiver, TrainedArtifact, Trainer, load_or_initialize

DRAIN_POLL_S = 5.0


class PooledTrainer(Trainer):
    """Trains tasks of one worker in processes of the Ray cluster that it keeps for the next task; others as `RayTrainer`.

    A training whose process ends, with its node perhaps, resumes in another process, `cluster.max_failures` times.
    """

    def __init__(self) -> None:
        self._pool = ProcessPool()

    def fit(self, task: TrainingTask, *, name: str, receive: Receiver | None = None) -> TrainedArtifact:
        """As `RayTrainer.fit`."""
        if not task.job.cluster.has_one_worker:
            return RayTrainer().fit(task, name=name, receive=receive)
        if artifact := load_or_initialize(task, name=name):
            return artifact
        with claim_training(task, name=name):
            return self._train(task, name=name, receive=receive or ignore)

    def release(self) -> None:
        """End the processes in which nothing is trained now, so that others get their CPUs and GPUs."""
        self._pool.release()

    def _train(self, task: TrainingTask, *, name: str, receive: Receiver) -> TrainedArtifact:
        failures = 0
        while True:
            try:
                with self._pool.lease(task.job) as process:
                    return process.train(task, name=name, receive=receive)
            except RayTaskError as failure:
                error, is_counted = failure.cause, True
            except RayActorError as failure:
                error, is_counted = failure, not failure.preempted
            failures += is_counted
            if is_permanent(error) or 0 <= task.job.cluster.max_failures < failures:
                if isinstance(error, UserError):
                    raise name_error(error, name=name)
                raise TrainError(f"{name}: training failed, also after restarts: {get_cause(error)}") from error
            receive(WorkersLost(f"worker 0: {get_cause(error)}; resumes from the latest checkpoint"))


def ignore(event: Event) -> None:
    """Receive an event, and do nothing."""


class ProcessPool:
    """Processes with the resources of one worker each. Safe for use by several threads."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, list[TrainingProcess]] = defaultdict(list)  # by what they were started with
        self._lock = threading.Lock()

    @contextmanager
    def lease(self, job: Job) -> Iterator[TrainingProcess]:
        """A process that the job's trainings can use, for the block; one that is left with an error is ended."""
        options = {
            "num_cpus": job.cluster.cpus_per_worker,
            "num_gpus": job.cluster.gpus_per_worker,
            "runtime_env": {"env_vars": make_worker_environment(job)},
        }
        with self._lock:
            idle = self._idle[repr(options)]
            process = idle.pop() if idle else None
        if process is None or not process.is_alive():
            self.release()  # they may hold what the new one needs
            process = TrainingProcess(options)
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        with self._lock:
            idle.append(process)

    def release(self) -> None:
        """End all processes that are not leased."""
        with self._lock:
            idle = [process for processes in self._idle.values() for process in processes]
            for processes in self._idle.values():
                processes.clear()
        for process in idle:
            process.kill()


class TrainingProcess:
    """A process on a node of the cluster, which carries out one training at a time."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options` of a Ray actor; it starts as soon as the cluster has its resources."""
        self._actor = TrainingActor.options(**options).remote()  # type: ignore[attr-defined]  # Ray adds it

    def train(self, task: TrainingTask, *, name: str, receive: Receiver) -> TrainedArtifact:
        """Train to the end, and pass on events as they come.

        Raises CancelledError after an abort, RayActorError where the process has ended, RayTaskError for other errors.
        """
        is_aborted = threading.Event()

        def abort() -> None:
            is_aborted.set()
            self.kill()

        receive(TrainingStarted(abort))
        artifact: TrainedArtifact | None = None
        try:
            for reference in self._actor.train.remote(task, name=name):
                item: Event | TrainedArtifact = ray.get(reference)
                if isinstance(item, TrainedArtifact):
                    artifact = item
                else:
                    receive(item)
        except RayActorError:
            if is_aborted.is_set():
                raise CancelledError from None
            raise
        assert artifact is not None, "a training that yields nothing raises"
        return artifact

    def is_alive(self) -> bool:
        """Whether the process still runs, and its node; waits until it has started."""
        try:
            ray.get(self._actor.__ray_ready__.remote())
        except RayActorError:
            return False
        return True

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        ray.kill(self._actor)


@ray.remote
class TrainingActor:
    """What runs in a `TrainingProcess`."""

    def train(self, task: TrainingTask, *, name: str) -> Iterator[Event | TrainedArtifact]:
        """Yield the events of a training as they come, and in the end what it made."""
        events: SimpleQueue[Event | None] = SimpleQueue()
        with ThreadPoolExecutor(1, thread_name_prefix="training") as executor:
            training = executor.submit(ActorTrainer().fit, task, name=name, receive=events.put)
            training.add_done_callback(lambda _: events.put(None))
            while (event := events.get()) is not None:
                yield event
            yield training.result()
        del training
        gc.collect()  # the next training needs the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class ActorTrainer(LocalTrainer):
    """Trains in a process of Ray."""

    def make_session(self, task: TrainingTask, folder: str) -> LocalSession:
        """A session that Ray's monitoring sees."""
        return ActorSession(task, folder)


class ActorSession(LocalSession):
    """The one worker of a training, in a process of Ray."""

    def __init__(self, task: TrainingTask, training: str) -> None:
        super().__init__(task, training)
        self._exporter = GaugeExporter(training=task.name or task.job.name, method=task.job.method.name)
        self._asked_at, self._is_draining = -math.inf, False

    def export_gauges(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Export to Prometheus, as `RaySession` does."""
        self._exporter.export(state, values)

    def is_preempted(self) -> bool:
        """Whether Ray knows that this node is about to be taken away. Asks every DRAIN_POLL_S."""
        now = time.monotonic()
        if not self._is_draining and now - self._asked_at >= DRAIN_POLL_S:
            self._asked_at, self._is_draining = now, is_own_node_draining()
        return self._is_draining
