"""One training as a Ray Train run: elastic, restarted after failures, resumed when it is submitted again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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

from facscale.cluster.claim import ClaimedError, claim, describe_process
from facscale.cluster.ray import get_worker_resources
from facscale.compat.ray_train import LeanTorchTrainer
from facscale.data.s3 import DRIVER_VARIABLE, list_variables
from facscale.data.storage import Folder
from facscale.errors import UserError
from facscale.files import LockedError, hold_lock
from facscale.spec import Job
from facscale.train import checkpoint
from facscale.train.checkpoint import DamagedCheckpointError
from facscale.train.checkpoint_record import repair_record
from facscale.train.errors import TrainError
from facscale.train.events import CheckpointPassedOver
from facscale.train.ray.event_queue import EventDispatcher
from facscale.train.ray.session import train_on_worker
from facscale.train.ray.worker_failures import RetryingTorchConfig, WorkerFailureReporter
from facscale.train.task import TrainingTask
from facscale.train.trainer import (
    Receiver,
    TrainedArtifact,
    Trainer,
    load_or_initialize,
    storage_url,
    store_artifact,
)

OWNER = "owner"  # in the folder of a training: who trains it
WAITING_POLL_S = 1.0
log = logging.getLogger(__name__)
WorkerLoop = Callable[[dict[str, Any]], None]  # Ray Train's `train_loop_per_worker`


class RayTrainer(Trainer):
    """Trains on the workers that `cluster:` asks for, of the Ray cluster that this process joined."""

    def fit(self, task: TrainingTask, *, name: str, receive: Receiver | None = None) -> TrainedArtifact:
        """As `Trainer.fit`. Raises TrainError when Ray Train gives up, and a worker's own UserError as it is."""
        if artifact := load_or_initialize(task, name=name):
            return artifact
        with claim_training(task, name=name):
            return self._train(task, name=name, receive=receive)

    def _train(self, task: TrainingTask, *, name: str, receive: Receiver | None) -> TrainedArtifact:
        if artifact := load_or_initialize(task, name=name):  # whoever held the training before has finished it
            return artifact
        if repaired := repair_record(f"{storage_url(task.job)}/{name}"):
            log.warning("%s", repaired)
        with dispatch_events(task, receive) as watched:
            result = run_ray_trainer(watched, name=name)
            try:
                export = read_result(result, name=name)
            except DamagedCheckpointError as error:  # the workers pass it over, and train again from the one before
                watched.emit(CheckpointPassedOver(f"{error}; the checkpoint before it is used"))
                result = run_ray_trainer(watched, name=name)
                export = read_result(result, name=name)
        cost = {metric: float(value) for metric, value in (result.metrics or {}).items() if metric != "step"}
        return store_artifact(task.job, name=name, export=export, cost=cost)


@contextmanager
def claim_training(task: TrainingTask, *, name: str) -> Iterator[None]:
    """Be the only process that trains into a folder; waits, with a line, for one that does.

    Other processes are those of the cluster and, where the folder is on a disk with locks, all that share that disk.
    """
    url, has_told = f"{storage_url(task.job)}/{name}", False
    folder, owner = Folder(url), f"{task.name or name}: {describe_process()}"
    with ExitStack() as stack:
        while True:
            try:
                with ExitStack() as claims:
                    if folder.is_local:
                        claims.enter_context(hold_lock(folder.path / OWNER, owner=owner))
                    claims.enter_context(claim(f"training-{url}", description=owner))
                    stack.enter_context(claims.pop_all())
                break
            except (ClaimedError, LockedError) as error:
                if not has_told:
                    log.warning("%s is being trained already (%s): its result is waited for", name, error)
                has_told = True
                time.sleep(WAITING_POLL_S)
        yield


def run_ray_trainer(task: TrainingTask, *, name: str) -> Result:
    """Train to the end. Raises as `RayTrainer.fit`."""
    try:
        return make_ray_trainer(task, {"task": task}, name=name, loop=train_on_worker).fit()
    except TrainingFailedError as error:
        raise unwrap_error(error, name=name) from None


def read_result(result: Result, *, name: str) -> bytes:
    """The export in the last checkpoint of a training. Raises DamagedCheckpointError, or TrainError if there is none."""
    if result.checkpoint is None:
        raise TrainError(f"{name}: training ended without a checkpoint: {result.error}")
    with result.checkpoint.as_directory() as folder:
        return checkpoint.read_export(Path(folder), name=result.checkpoint.path)


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


def make_ray_trainer(task: TrainingTask, settings: dict[str, Any], *, name: str, loop: WorkerLoop) -> LeanTorchTrainer:
    """Ray Train's trainer, which runs `loop(settings)` in the workers that the task asks for."""
    cluster = task.job.cluster
    return LeanTorchTrainer(
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
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    causes = [getattr(error, "controller_failure", None), *failures]
    for cause in causes:
        if isinstance(cause, UserError):
            return name_error(cause, name=name)
    return TrainError(f"{name}: training failed, also after restarts: {next(iter(failures), error)}")


def name_error(error: Exception, *, name: str) -> Exception:
    """A worker's own error; one of training itself says which training it was."""
    return type(error)(f"{name}: {error}") if isinstance(error, TrainError) else error


def make_worker_environment(job: Job) -> dict[str, str]:
    """Environment variables of the workers: as many threads as each has cores, so that neighbours do not compete; no chatter."""
    compiler = {} if job.train.compile else {"TORCHDYNAMO_DISABLE": "1"}  # DeepSpeed would load it, for 2 s
    return compiler | {
        DRIVER_VARIABLE: " ".join(list_variables()),
        "OMP_NUM_THREADS": str(max(1, int(job.cluster.cpus_per_worker))),
        "PYTHONWARNINGS": "ignore",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it turns what libraries print, and we hold back, into records of a log
    }
