"""Run functions on the nodes of a Ray cluster: one task per node, which reserves no CPU and so need not wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facscale.doctor import node as node_module

ALL_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}  # lets a task that reserves no GPU see all


def run_on_nodes(
    function: Callable[..., Any],
    *arguments: Any,
    nodes: Sequence[Mapping[str, Any]],
    timeout_s: float,
    max_calls: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Run `function(*arguments)` on all nodes at once; return by node its result, or the exception that it raised.

    A node without an answer within `timeout_s` gives a TimeoutError. `nodes` are those of `context.name_nodes`.
    Functions of `doctor.node` are pickled by value, so that they run where facscale is not installed. A worker process
    ends after `max_calls` tasks; 0: never. `options` go to `ray.remote`.
    """
    ray.cloudpickle.register_pickle_by_value(node_module)
    task = ray.remote(max_calls=max_calls)(function)
    pending = {
        node["Name"]: task.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            **options,
        ).remote(*arguments)
        for node in nodes
    }
    end = time.monotonic() + timeout_s
    return {name: _fetch(reference, max(0.1, end - time.monotonic())) for name, reference in pending.items()}


def _fetch(reference: Any, timeout_s: float) -> Any:
    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return TimeoutError(f"no answer within {timeout_s:.0f} s")
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return cause if isinstance(cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error
