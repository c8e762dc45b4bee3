"""The Ray cluster that a job runs on: join it, and refuse a job that can never start there."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from facscale.quiet import quieten
from facscale.spec import Job, SpecError

PLACE = re.compile(r"[\w.\-\[\]:]+:\d+")  # host:port; Ray knows other addresses too: auto, local, ray://...


def join() -> None:
    """Connect to the job's cluster, RAY_ADDRESS's, or this machine's; start one here if there is none.

    Raises SpecError where a cluster is named and does not answer, or answers and does not know our token.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a CPU task must not hide the GPUs of its process
    quieten()
    if ray.is_initialized():
        return
    named = os.environ.get("RAY_ADDRESS", "")
    silent = SpecError(f"no Ray cluster answers at {named}: start one with `ray start --head`, or unset RAY_ADDRESS")
    if PLACE.fullmatch(named) and not answers(named):
        raise silent
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    try:
        if named or stands_here():
            ray.init(**quiet)
        else:
            ray.init(address="local", **own_dashboard(), **quiet)
    except (ConnectionError, AuthenticationError) as error:
        if "AuthenticationError" in f"{error!r} {error.__cause__!r}":  # Ray keeps its cause as text
            raise SpecError(
                f"the Ray cluster at {named or 'this machine'} lets nobody in without its token: set RAY_AUTH_MODE=token, "
                "and RAY_AUTH_TOKEN, or the file ~/.ray/auth_token, to what its administrator gave you"
            ) from None
        raise silent from None


def own_dashboard() -> dict[str, Any]:
    """Options of a Ray that is started here: a dashboard, and in its processes the address of it.

    Without the address Ray Train looks for the cluster that was last started on this machine, and after each training
    waits 12 s for one that is long gone.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
    return {"include_dashboard": True, "dashboard_port": port, "runtime_env": {"env_vars": variables}}


def stands_here() -> bool:
    """Whether the cluster that was last started on this machine still answers. Ray would wait for it for minutes."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - as Ray has it
    noted = Path(folder) / "ray" / "ray_current_cluster"
    return noted.is_file() and answers(noted.read_text().strip())


def answers(place: str) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


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


def at_once(job: Job) -> int:
    """How many trainings of this job the cluster holds side by side, as it stands now: at least 1."""
    there = ray.cluster_resources()
    return max(
        1, int(min(there.get(name, 0) / (job.cluster.most_workers * each) for name, each in resources(job).items()))
    )
