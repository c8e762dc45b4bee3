"""One training as a Ray Train run: elastic, restarted after failures, resumed when it is submitted again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer

from facscale.cluster.ray import get_worker_resources
from facscale.data import DataError
from facscale.data.s3 import DRIVER_VARIABLE, list_variables
from facscale.spec import Job, SpecError
from facscale.train import checkpoint
from facscale.train.ray.event_queue import EventDispatcher
from facscale.train.ray.session import train_on_worker
from facscale.train.ray.worker_failures import RetryingTorchConfig, WorkerFailureReporter
from facscale.train.task import TrainingTask
from facscale.train.trainer import (
    Receiver,
    TrainedArtifact,
    Trainer,
    TrainError,
    load_or_initialize,
    storage_url,
    store_artifact,
)

WorkerLoop = Callable[[dict[str, Any]], None]  # Ray Train's `train_loop_per_worker`


class RayTrainer(Trainer):
    """Trains on the workers that `cluster:` asks for, of the Ray cluster that this process joined."""

    def fit(self, task: TrainingTask, *, name: str, receive: Receiver | None = None) -> TrainedArtifact:
        """As `Trainer.fit`. Raises TrainError when Ray Train gives up, SpecError or DataError when the fault is the user's."""
        if artifact := load_or_initialize(task, name=name):
            return artifact
        with dispatch_events(task, receive) as watched:
            try:
                result = make_ray_trainer(watched, {"task": watched}, name=name, loop=train_on_worker).fit()
            except TrainingFailedError as error:
                raise unwrap_error(error, name=name) from None
        if result.checkpoint is None:
            raise TrainError(f"{name}: training ended without a checkpoint: {result.error}")
        with result.checkpoint.as_directory() as folder:
            export = (Path(folder) / checkpoint.EXPORT).read_bytes()
        cost = {metric: float(value) for metric, value in (result.metrics or {}).items() if metric != "step"}
        return store_artifact(task.job, name=name, export=export, cost=cost)


@contextmanager
def dispatch_events(task: TrainingTask, receive: Receiver | None) -> Iterator[TrainingTask]:
    """The task with a queue for its events, which `receive` is called with until the end of the block."""
    if receive is None:
        yield task
        return
    dispatcher = EventDispatcher(receive)
    try:
        yield replace(task, events=dispatcher.queue)
    finally:
        dispatcher.close()


def make_ray_trainer(task: TrainingTask, settings: dict[str, Any], *, name: str, loop: WorkerLoop) -> TorchTrainer:
    """Ray Train's trainer, which runs `loop(settings)` in the workers that the task asks for."""
    cluster = task.job.cluster
    return TorchTrainer(
        loop,
        train_loop_config=settings,
        torch_config=RetryingTorchConfig(
            backend="nccl" if cluster.gpus_per_worker else "gloo",
            timeout_s=cluster.collective_timeout_s,
            task=task,
        ),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=get_worker_resources(task.job),
            elastic_resize_monitor_interval_s=cluster.resize_interval_s,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage_url(task.job),
            failure_config=FailureConfig(
                max_failures=cluster.max_failures, max_preemption_failures=-1, relax_collectives_on_preemption=True
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=task.job.train.keep_checkpoints),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[WorkerFailureReporter(task)],
            worker_runtime_env={"env_vars": make_worker_environment(task.job)},
        ),
    )


def unwrap_error(error: TrainingFailedError, *, name: str) -> Exception:
    """The worker's own error, if it was one of ours; else an error that names the first failure."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, SpecError | DataError):
            return cause
    first = next(iter(failures.values()), error)
    return TrainError(f"{name}: training failed, also after restarts: {first}")


def make_worker_environment(job: Job) -> dict[str, str]:
    """Environment variables of the workers: as many threads as each has cores, so that neighbours do not compete; no chatter."""
    compiler = {} if job.train.compile else {"TORCHDYNAMO_DISABLE": "1"}  # DeepSpeed would load it, for 2 s
    return compiler | {
        DRIVER_VARIABLE: " ".join(list_variables()),
        "OMP_NUM_THREADS": str(max(1, int(job.cluster.cpus_per_worker))),
        "PYTHONWARNINGS": "ignore",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it turns what libraries print, and we hold back, into records of a log
    }
