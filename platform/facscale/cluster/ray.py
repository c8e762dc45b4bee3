"""The Ray cluster that a job runs on: join it, and refuse a job that can never start there."""

from __future__ import annotations

import logging
import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import canonicalize_bootstrap_address, find_gcs_addresses
from ray.exceptions import AuthenticationError

from facscale.quiet import quieten
from facscale.spec import Job, SpecError

PLACE = re.compile(r"[\w.\-\[\]:]+:\d+")  # host:port; Ray knows other addresses too: auto, local, ray://...
CLUSTER, DASHBOARD = "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"  # what Ray's own clients go by; the second has precedence
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in what `ray job submit` starts


def join() -> None:
    """Connect to the job's cluster, RAY_ADDRESS's, or this machine's; start one here if there is none.

    Every process of the job is given the address of its cluster. Ray Train, Ray Data and Ray's clients would otherwise
    ask the cluster that was last started on this machine, which may be somebody else's, and Ray Train ends a training
    that it does not find there.

    Raises SpecError where a cluster is named and does not answer, or answers and does not know our token.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a CPU task must not hide the GPUs of its process
    quieten()
    if ray.is_initialized():
        return
    place = choose_cluster()
    silent = SpecError(f"no Ray cluster answers at {place}: start one with `ray start --head`, or unset RAY_ADDRESS")
    if PLACE.fullmatch(place) and not answers(place):
        raise silent
    try:
        connect(place)
    except (ConnectionError, AuthenticationError) as error:
        if "AuthenticationError" in f"{error!r} {error.__cause__!r}":  # Ray keeps its cause as text
            raise SpecError(
                f"the Ray cluster at {place} lets nobody in without its token: set RAY_AUTH_MODE=token, "
                "and RAY_AUTH_TOKEN, or the file ~/.ray/auth_token, to what its administrator gave you"
            ) from None
        raise silent from None
    announce(place)


def connect(place: str) -> None:
    """Join the cluster at `place`, an address as RAY_ADDRESS takes it, or start the "local" one."""
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if place == "local":
        context = ray.init(address=place, **own_dashboard(), **quiet)
    else:
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")  # `ray job submit` may have been given addresses too
        if not is_named():
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as Ray does where none is named
        context = ray.init(address=place, runtime_env={"env_vars": make_variables(place)}, **quiet)
        if SUBMITTED in os.environ:
            os.environ[CLUSTER] = place  # for the programs that the driver starts
    if context.dashboard_url:
        os.environ[DASHBOARD] = f"http://{context.dashboard_url}"  # Ray Data asks it from this process
    else:
        os.environ.pop(DASHBOARD, None)


def choose_cluster() -> str:
    """Where the job's cluster is: host:port, "local" for one to be started, or what else RAY_ADDRESS may hold.

    `ray job submit` sets RAY_ADDRESS too, but to the cluster that was last started on the machine of its driver. The
    job's own is the one whose raylet the driver descends from. Raises SpecError where "auto" may mean several, or none.
    """
    if SUBMITTED in os.environ and (ours := find_own_raylet()):
        return ours
    named = os.environ.get(CLUSTER, "")
    if is_named():
        return named
    if place := find_last_started():
        return place
    running = find_gcs_addresses()
    if named and len(running) != 1:
        raise SpecError(f"RAY_ADDRESS=auto does not say which: {len(running)} Ray clusters run here; write HOST:PORT")
    return next(iter(running)) if named else "local"


def is_named() -> bool:
    """Whether RAY_ADDRESS says which cluster, or that one is to be started."""
    return os.environ.get(CLUSTER, "") not in {"", "auto"}


def find_own_raylet() -> str:
    """The cluster of the raylet that started this process or one of its parents; "" where none did."""
    for parent in psutil.Process().parents():
        with suppress(psutil.Error):
            words = parent.cmdline()
            if words and Path(words[0]).name == "raylet":
                flags = [word.removeprefix("--gcs-address=") for word in words if word.startswith("--gcs-address=")]
                return flags[0] if flags else ""
    return ""


def make_variables(place: str) -> dict[str, str]:
    """Variables by which Ray's clients in a process find the cluster at `place`; none for what only Ray understands.

    The dashboard's is emptied because it has precedence, and workers inherit what was set where their node was started.
    """
    if not PLACE.fullmatch(place):
        return {}
    return {CLUSTER: canonicalize_bootstrap_address(place), DASHBOARD: ""}  # no loopback, which other nodes have too


def own_dashboard() -> dict[str, Any]:
    """Options of a Ray that is started here: a dashboard, and in its processes the address of it.

    Its address as a cluster is known only once it runs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {DASHBOARD: f"http://127.0.0.1:{port}"}
    return {"include_dashboard": True, "dashboard_port": port, "runtime_env": {"env_vars": variables}}


def find_last_started() -> str:
    """The cluster that was last started on this machine, if it still answers; else "". Ray would wait for it for minutes."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - as Ray has it
    note = Path(folder) / "ray" / "ray_current_cluster"
    place = note.read_text().strip() if note.is_file() else ""
    return place if answers(place) else ""


def announce(place: str) -> None:
    """Log which cluster was taken, where nobody named it and there was a choice."""
    others = sorted(find_gcs_addresses() - {ray.get_runtime_context().gcs_address})
    if others and not is_named():
        taken = "started a Ray of its own" if place == "local" else f"uses the last one started here, {place}"
        logging.getLogger(__name__).warning(
            "Ray clusters run on this machine at %s too; this run %s. RAY_ADDRESS=HOST:PORT chooses",
            ", ".join(others),
            taken,
        )


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
