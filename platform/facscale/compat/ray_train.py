"""Private API of Ray Train V2. Tried with Ray 2.60.0."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ray
from ray.train.torch import TorchConfig

from facscale.compat import load_private

# The class that forms torch's process group. Ray Train offers no hook around it: `TorchConfig.backend_cls` is documented
# as an attribute, its class is not public.
TORCH_BACKEND: Any = TorchConfig().backend_cls

SNAPSHOT = "checkpoint_manager_snapshot.json"  # in the folder of a training: its checkpoints, written in place
CHECKPOINT_PREFIX = "checkpoint_"  # of the names of their folders, which sort by time


def is_snapshot_usable(text: bytes, *, folders: Collection[str]) -> bool:
    """Whether Ray Train can resume from the text of a SNAPSHOT; `folders`: the checkpoints that are there.

    Ray Train overwrites the file in place, so that a kill or a full disk leaves a part of it, with which no training in
    that folder starts any more.
    """
    try:
        results = json.loads(text)["checkpoint_results"]
        return all(result["checkpoint_dir_name"] in folders for result in results)
    except (ValueError, KeyError, TypeError):
        return False


def build_snapshot(checkpoints: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """The text of a SNAPSHOT of checkpoints, the oldest first: names of their folders, and what they were reported with."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": dict(metrics)} for name, metrics in checkpoints]
    state = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(results))),
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    return json.dumps(state).encode()


def forget_worker_group(worker_group: Any) -> None:
    """Have Ray Train count a worker group as not started, so that it is ended with all that it holds, and started again.

    Raises AttributeError where this version of Ray has no `WorkerGroup._clear_state`.
    """
    worker_group._clear_state()  # noqa: SLF001


def is_preemption_announced() -> bool:
    """Whether Ray Train has told this worker that a node of its group is about to be taken away.

    The public `ray.train.get_preemption_info` has all workers meet in an actor to agree; ours agree in a collective
    operation that they do anyway. Raises IncompatibleVersionError where this version of Ray keeps it elsewhere.
    """
    get_context = load_private(
        "ray.train.v2._internal.execution.context", "get_train_context", distribution="ray", tried="2.60.0"
    )
    return get_context().preemption_context.preemption_info is not None


def abort_training(controller: Any) -> Any:
    """Ask a training's controller (`train.events.ControllerStarted`) to end the training and give everything back.

    Returns Ray's reference to the call, which fails with RayActorError when the controller has ended.
    Raises AttributeError where this version of Ray has no `TrainController.abort`.
    """
    return controller.abort.remote()
