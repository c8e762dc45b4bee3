"""Questions to the nodes of a Ray cluster: one task for each, wherever its CPUs are busy or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facscale.doctor import node as facts

GPUS_SEEN = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}  # a task that reserves no GPU sees them all


def ask_nodes(
    call: Callable[..., Any],
    *words: Any,
    nodes: Sequence[Mapping[str, Any]],
    patience_s: float,
    calls: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """`call(*words)` on each node at once: what it returned, or the exception that tells why it did not.

    `nodes` are those of `patient.named`. A function of `doctor.node` travels whole, so that it also runs where facscale is missing. `calls`: how many a
    process answers before it ends; 0: no end.
    """
    ray.cloudpickle.register_pickle_by_value(facts)
    task = ray.remote(max_calls=calls)(call)
    pending = {
        node["Name"]: task.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            **options,
        ).remote(*words)
        for node in nodes
    }
    end = time.monotonic() + patience_s
    return {name: _answer(reference, max(0.1, end - time.monotonic())) for name, reference in pending.items()}


def _answer(reference: Any, patience_s: float) -> Any:
    try:
        return ray.get(reference, timeout=patience_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return TimeoutError(f"no answer within {patience_s:.0f} s")
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return cause if isinstance(cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error
