"""The Ray cluster: can it be joined, does its dashboard take jobs, does it hold the job."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

from facscale.cluster.ray import check_capacity, choose_cluster, join
from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, get_first_line, ok, problem, warning
from facscale.doctor.runner import register_check

TOKEN_FIX = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file of RAY_AUTH_TOKEN_PATH"  # noqa: S105
LOCAL_PREFIXES = ("127.", "localhost", "local", "auto", "[::1]")  # of addresses of this machine
JOIN_TIMEOUT_S = 90
FAILURE_MARK = "facscale-doctor: "
JOIN_SCRIPT = f"""
from facscale.cluster.ray import choose_cluster, connect
try:
    connect(choose_cluster())
except BaseException as error:
    print("{FAILURE_MARK}" + type(error).__name__ + ": " + " ".join(str(error).split())[:400], flush=True)
    raise SystemExit(1)
"""


@register_check("Ray", rank=10, timeout_s=None)  # in our thread: Ray's processes end with the thread that starts them
def check_connection(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at RAY_ADDRESS, and at whether `ray status` works there."""
    import ray

    if not ray.is_initialized() and choose_cluster() != "local" and (refusal := try_to_join()):
        yield refusal
        return
    join()
    address = os.environ.get("RAY_ADDRESS", "")
    context.results["ray"] = address or "this machine's"
    cluster = address or f"the cluster of this machine at {ray.get_runtime_context().gcs_address}"
    resources = ray.cluster_resources()
    size = f"{len(context.nodes)} nodes" if len(context.nodes) > 1 else "one node"
    amounts = (
        f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU, "
        f"{resources.get('memory', 0) / 2**30:.0f} GiB"
    )
    yield ok(f"{cluster} answers: {size}, {amounts}")
    yield from check_authentication(address)


def try_to_join() -> Finding | None:
    """Join the cluster in another process, as Ray may hang or end the process; return what failed."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", JOIN_SCRIPT]
    try:
        process = subprocess.run(  # noqa: S603 - our own Python
            command, capture_output=True, text=True, timeout=JOIN_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return problem(f"the cluster does not let us join within {JOIN_TIMEOUT_S} s", get_join_fix(""))
    if process.returncode == 0:
        return None
    if "Unauthenticated" in process.stderr:  # Ray's exception says only that it could not connect
        token = "wrong" if os.environ.get("RAY_AUTH_MODE") == "token" else "missing"
        return problem(f"the cluster asks for a token, and ours is {token}", TOKEN_FIX)
    lines = [line for line in process.stdout.splitlines() if line.startswith(FAILURE_MARK)]
    message = lines[-1].removeprefix(FAILURE_MARK) if lines else "the process that tried was killed"
    return problem(f"the cluster cannot be joined: {message}", get_join_fix(message))


def check_authentication(address: str) -> Iterator[Finding]:
    """Check whether the cluster that we have joined requires a token; `address` is RAY_ADDRESS or ""."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":  # Ray sets it too, where it finds a token by itself
        yield ok("it wants a token, and accepts ours")
    elif address and not address.startswith(LOCAL_PREFIXES):
        yield warning(
            "the cluster lets anybody in who reaches it", f"start it with RAY_AUTH_MODE=token; then {TOKEN_FIX}"
        )


@register_check("job interface", rank=20, timeout_s=60)
def check_dashboard(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at the cluster's dashboard, which takes `ray job submit`."""
    import ray
    from ray.job_submission import JobSubmissionClient

    context.require("ray")
    address = ray.init(ignore_reinit_error=True, logging_level=logging.WARNING).dashboard_url  # of the joined cluster
    fix = "start Ray with its dashboard, or give its address to `ray job submit --address`"
    if not address:
        yield warning("the cluster has no dashboard, so `ray job submit` does not work", fix)
        return
    try:
        JobSubmissionClient(f"http://{address}").list_jobs()
    except ConnectionError as error:
        yield warning(f"http://{address} does not answer, so `ray job submit` does not work: {error}", fix)
    except Exception as error:  # noqa: BLE001 - requests', Ray's and a plain RuntimeError
        yield problem(f"http://{address} takes no jobs: {get_first_line(error)}", TOKEN_FIX)
    else:
        yield ok(f"`ray job submit --address http://{address}` is let in")


@register_check("room", rank=30)
def check_room(context: DiagnosticContext) -> Iterator[Finding]:
    """Compare cluster.workers with what `ray status` shows."""
    context.require("ray")
    if context.job is None:
        return
    check_capacity(context.job)
    cluster = context.job.cluster
    gpus = f" and {cluster.gpus_per_worker:g} GPU" if cluster.gpus_per_worker else ""
    growth = ", if it grows as cluster.autoscaling promises" if cluster.autoscaling else ""
    yield ok(f"there is room for {cluster.min_workers} workers with {cluster.cpus_per_worker:g} CPU{gpus} each{growth}")


def get_join_fix(message: str) -> str:
    """Return the fix for Ray's message that the cluster cannot be joined."""
    if "ersion mismatch" in message:
        return "install the cluster's versions here, or run the doctor inside: ray job submit -- facscale doctor"
    return "see that `ray status` works from here; from outside a cluster: ray job submit -- facscale doctor"
