"""One training as a Ray Train run: elastic, restarted after failures, resumed when it is submitted again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer

from facscale.cluster import resources
from facscale.data import DataError
from facscale.spec import Job, SpecError
from facscale.train import checkpoint
from facscale.train.ray.lost import Losses
from facscale.train.ray.meeting import Together
from facscale.train.ray.session import train_on_ray
from facscale.train.task import Task
from facscale.train.trainer import Trained, Trainer, TrainError, storage

Loop = Callable[[dict[str, Any]], None]  # Ray Train's `train_loop_per_worker`
SOONER = (  # seconds. For up to 20 s Ray Train counts on a host that is lost; an elastic job would wait a minute for it
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    "10",
)


class RayTrainer(Trainer):
    """Trains on the workers that `cluster:` asks for, of the Ray cluster that this process joined."""

    def train(self, task: Task, *, name: str) -> Trained:
        """Let Ray Train do it. Raises TrainError when it gives up, SpecError or DataError when the fault is the user's."""
        result = ended(task, {"task": task}, name=name, loop=train_on_ray)
        if result.checkpoint is None:
            raise TrainError(f"{name}: training ended without a checkpoint: {result.error}")
        with result.checkpoint.as_directory() as folder:
            exported = (Path(folder) / checkpoint.EXPORT).read_bytes()
        figures = {name: float(value) for name, value in (result.metrics or {}).items() if name != "step"}
        return Trained(exported, figures)


def ended(task: Task, given: dict[str, Any], *, name: str, loop: Loop) -> Result:
    """What comes of `loop` on the workers that the task asks for."""
    try:
        return trainer(task, given, name=name, loop=loop).fit()
    except TrainingFailedError as error:
        raise told(error, name=name) from None


def trainer(task: Task, given: dict[str, Any], *, name: str, loop: Loop) -> TorchTrainer:
    """The task as Ray Train takes it."""
    cluster = task.job.cluster
    if cluster.fewest_workers < cluster.most_workers:
        os.environ.setdefault(*SOONER)
    return TorchTrainer(
        loop,
        train_loop_config=given,
        torch_config=Together(
            backend="nccl" if cluster.gpus_per_worker else "gloo", timeout_s=cluster.patience, task=task
        ),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=resources(task.job),
            elastic_resize_monitor_interval_s=cluster.regroup,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage(task.job),
            failure_config=FailureConfig(
                max_failures=cluster.max_failures, max_preemption_failures=-1, relax_collectives_on_preemption=True
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=task.job.train.keep_checkpoints),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[Losses(task)],
            worker_runtime_env={"env_vars": environment(task.job)},
        ),
    )


def told(error: TrainingFailedError, *, name: str) -> Exception:
    """The worker's own error, if it was one of ours; else one that says where to look."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, SpecError | DataError):
            return cause
    first = next(iter(failures.values()), error)
    return TrainError(f"{name}: training failed, also after restarts: {first}")


def environment(job: Job) -> dict[str, str]:
    """Of the workers: as many threads as each one has cores, so that neighbours do not fight over them; no chatter."""
    compiler = {} if job.train.compile else {"TORCHDYNAMO_DISABLE": "1"}  # DeepSpeed would load it, for 2 s
    return compiler | {
        "OMP_NUM_THREADS": str(max(1, int(job.cluster.cpus_per_worker))),
        "PYTHONWARNINGS": "ignore",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it turns what libraries print, and we hold back, into records of a log
    }
