"""Private API of Ray Train V2. Tried with Ray 2.60.0."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig, TorchTrainer

from facscale.compat import load_private

# The class that forms torch's process group. Ray Train offers no hook around it: `TorchConfig.backend_cls` is documented
# as an attribute, its class is not public.
TORCH_BACKEND: Any = TorchConfig().backend_cls


class LeanTorchTrainer(TorchTrainer):
    """A TorchTrainer whose workers read no data set of Ray Data: it starts no actor that would divide them.

    That actor takes 1.6 s of processor time at each start and 115 MB of the head's memory. A version of Ray that adds it
    elsewhere has it again, and nothing else changes.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "DatasetsCallback"]


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
    """Ask the controller of a training, an actor, to end the training and give everything back.

    Returns Ray's reference to the call, which fails with RayActorError when the controller has ended.
    Raises AttributeError where this version of Ray has no `TrainController.abort`.
    """
    return controller.abort.remote()
