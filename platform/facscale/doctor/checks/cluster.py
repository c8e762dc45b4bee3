"""The Ray cluster: does it answer, may we in, does it hold the job."""

from __future__ import annotations

import os
from collections.abc import Iterator

from facscale.cluster import join, refuse_impossible
from facscale.doctor.examine import check
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.patient import Patient
from facscale.errors import UserError

TOKEN = "give RAY_AUTH_MODE=token and the cluster's token: RAY_AUTH_TOKEN, or a file that RAY_AUTH_TOKEN_PATH names"  # noqa: S105
NO_MODE = "a token"  # of Ray's messages, where none was sent


@check("Ray", rank=10)
def reachable(patient: Patient) -> Iterator[Finding]:
    """Look at RAY_ADDRESS, and at whether `ray status` works there."""
    import ray

    named = os.environ.get("RAY_ADDRESS", "")
    try:
        join()
    except UserError:
        raise
    except ray.exceptions.AuthenticationError as error:
        yield problem(f"the cluster does not let us in: {first_line(error)}", TOKEN)
        return
    except Exception as error:  # noqa: BLE001 - Ray's own are many
        yield problem(f"the cluster cannot be joined: {first_line(error)}", mend_of(str(error)))
        return
    patient.state["ray"] = named or "this machine's"
    there = ray.cluster_resources()
    size = f"{len(patient.nodes)} nodes" if len(patient.nodes) > 1 else "one node"
    held = f"{there.get('CPU', 0):g} CPU, {there.get('GPU', 0):g} GPU, {there.get('memory', 0) / 2**30:.0f} GiB"
    yield ok(f"{named or 'the cluster of this machine'} answers: {size}, {held}")
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode == "token":
        yield ok("the token is accepted")
    elif named and not named.startswith(("127.", "localhost", "local", "auto")):
        yield warning("the cluster lets anybody in who reaches it", f"start it with RAY_AUTH_MODE=token; then {TOKEN}")


@check("job interface", rank=20, limit_s=60)
def jobs(patient: Patient) -> Iterator[Finding]:
    """Look at the cluster's dashboard, which takes `ray job submit`."""
    import ray
    from ray.job_submission import JobSubmissionClient

    patient.known("ray")
    address = ray.get_runtime_context().gcs_address and ray._private.worker.global_worker.node.webui_url  # noqa: SLF001
    if not address:
        yield warning("the cluster has no dashboard, so `ray job submit` has nobody to talk to", "start Ray with it")
        return
    try:
        JobSubmissionClient(f"http://{address}").list_jobs()
    except Exception as error:  # noqa: BLE001 - requests', Ray's and a plain RuntimeError
        yield problem(f"http://{address} takes no jobs: {first_line(error)}", TOKEN)
        return
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


def first_line(error: Exception) -> str:
    """Of what it says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def mend_of(text: str) -> str:
    """For what Ray says when it cannot be joined."""
    if "ersion mismatch" in text:
        return "install the cluster's versions here, or run the doctor inside: ray job submit -- facscale doctor"
    return "see that `ray status` works from here; from outside a cluster: ray job submit -- facscale doctor"
