"""The Ray cluster: does it answer, may we in, does it hold the job."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from facscale.cluster import join, refuse_impossible
from facscale.cluster.ray import choose_cluster
from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, first_line, ok, problem, warning
from facscale.doctor.patient import Patient

TOKEN = "give RAY_AUTH_MODE=token and the cluster's token: RAY_AUTH_TOKEN, or a file that RAY_AUTH_TOKEN_PATH names"  # noqa: S105
HERE = ("127.", "localhost", "local", "auto", "[::1]")  # how addresses of this machine begin
JOIN_S = 90
FAILED = "facscale-doctor: "
TRY = f"""
from facscale.cluster.ray import choose_cluster, connect
try:
    connect(choose_cluster())
except BaseException as error:
    print("{FAILED}" + type(error).__name__ + ": " + " ".join(str(error).split())[:400], flush=True)
    raise SystemExit(1)
"""


@check("Ray", rank=10, limit_s=None)  # Ray's processes end with the thread that starts them
def reachable(patient: Patient) -> Iterator[Finding]:
    """Look at RAY_ADDRESS, and at whether `ray status` works there."""
    import ray

    if not ray.is_initialized() and choose_cluster() != "local" and (refusal := tried()):
        yield refusal
        return
    join()
    named = os.environ.get("RAY_ADDRESS", "")
    patient.state["ray"] = named or "this machine's"
    about = named or f"the cluster of this machine at {ray.get_runtime_context().gcs_address}"
    there = ray.cluster_resources()
    size = f"{len(patient.nodes)} nodes" if len(patient.nodes) > 1 else "one node"
    held = f"{there.get('CPU', 0):g} CPU, {there.get('GPU', 0):g} GPU, {there.get('memory', 0) / 2**30:.0f} GiB"
    yield ok(f"{about} answers: {size}, {held}")
    yield from locked(named)


def tried() -> Finding | None:
    """What is wrong with joining, tried in a process of its own: one that waits for Ray may hang, or be ended by Ray."""
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(  # noqa: S603 - our own Python
            [sys.executable, "-c", TRY], capture_output=True, text=True, timeout=JOIN_S, check=False, env=quiet
        )
    except subprocess.TimeoutExpired:
        return problem(f"the cluster does not let us join within {JOIN_S} s", mend_of(""))
    if done.returncode == 0:
        return None
    if "Unauthenticated" in done.stderr:  # Ray's own exception only says that it could not connect
        ours = "wrong" if os.environ.get("RAY_AUTH_MODE") == "token" else "missing"
        return problem(f"the cluster asks for a token, and ours is {ours}", TOKEN)
    lines = [line for line in done.stdout.splitlines() if line.startswith(FAILED)]
    said = lines[-1].removeprefix(FAILED) if lines else "the process that tried was ended"
    return problem(f"the cluster cannot be joined: {said}", mend_of(said))


def locked(named: str) -> Iterator[Finding]:
    """Whether the cluster wants a token."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    if is_token_auth_enabled():
        yield ok("it wants a token, and accepts ours")
    elif named and not named.startswith(HERE):
        yield warning("the cluster lets anybody in who reaches it", f"start it with RAY_AUTH_MODE=token; then {TOKEN}")


@check("job interface", rank=20, limit_s=60)
def jobs(patient: Patient) -> Iterator[Finding]:
    """Look at the cluster's dashboard, which takes `ray job submit`."""
    import ray
    from ray.job_submission import JobSubmissionClient

    patient.known("ray")
    address = ray._private.worker.global_worker.node.webui_url  # noqa: SLF001 - Ray tells it to nobody else
    start = "start Ray with its dashboard, or say its address to `ray job submit --address`"
    if not address:
        yield warning("the cluster has no dashboard, so `ray job submit` has nobody to talk to", start)
        return
    try:
        JobSubmissionClient(f"http://{address}").list_jobs()
    except ConnectionError as error:
        yield warning(f"http://{address} does not answer, so `ray job submit` has nobody to talk to: {error}", start)
    except Exception as error:  # noqa: BLE001 - requests', Ray's and a plain RuntimeError
        yield problem(f"http://{address} takes no jobs: {first_line(error)}", TOKEN)
    else:
        yield ok(f"`ray job submit --address http://{address}` is let in")


@check("room", rank=30)
def room(patient: Patient) -> Iterator[Finding]:
    """Compare cluster.workers with what `ray status` shows."""
    patient.known("ray")
    if patient.job is None:
        return
    refuse_impossible(patient.job)
    cluster = patient.job.cluster
    each = f"{cluster.cpus_per_worker:g} CPU" + (
        f" and {cluster.gpus_per_worker:g} GPU" if cluster.gpus_per_worker else ""
    )
    grows = ", if it grows as cluster.autoscaling says" if cluster.autoscaling else ""
    yield ok(f"there is room for {cluster.fewest_workers} workers with {each} each{grows}")


def mend_of(text: str) -> str:
    """For what Ray says when it cannot be joined."""
    if "ersion mismatch" in text:
        return "install the cluster's versions here, or run the doctor inside: ray job submit -- facscale doctor"
    return "see that `ray status` works from here; from outside a cluster: ray job submit -- facscale doctor"
