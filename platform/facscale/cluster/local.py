"""The Ray cluster that a job runs on: join it, and refuse a job that can never start there."""

from __future__ import annotations

import logging
import os

import ray

from facscale.spec import Job, SpecError


def join() -> None:
    """Connect to the job's cluster, RAY_ADDRESS's, or this machine's; start one here if there is none."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a CPU task must not hide the GPUs of its process
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        return
    try:
        ray.init(logging_level=logging.WARNING, log_to_driver=True)
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "on this machine")
        raise SpecError(f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`") from None


def resources(job: Job) -> dict[str, float]:
    """What one worker needs, in Ray's names."""
    gpus = {"GPU": job.cluster.gpus_per_worker} if job.cluster.gpus_per_worker else {}
    return {"CPU": job.cluster.cpus_per_worker, **gpus}


def refuse_impossible(job: Job) -> None:
    """Raise SpecError where the cluster is too small for the fewest workers, and cannot grow."""
    least, there = job.cluster.fewest_workers, ray.cluster_resources()
    for name, each in resources(job).items():
        if not job.cluster.autoscaling and least * each > there.get(name, 0):
            raise SpecError(
                f"the job asks for {least} workers with {each:g} {name} each, the cluster has {there.get(name, 0):g} {name}: "
                f"lower cluster.workers or cluster.{name.lower()}s_per_worker"
                + (" (0 trains on the CPU)" if name == "GPU" else "")
                + ", join more nodes, or set cluster.autoscaling=true if it grows on demand"
            )
