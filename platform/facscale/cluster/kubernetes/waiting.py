"""From what the API server says of a RayJob and all around it: how far is it, and what does it wait for? Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facscale.cluster.kubernetes.host import State
from facscale.cluster.kubernetes.manifest import QUEUE

Thing = Mapping[str, Any]  # an object of the API
ENDED = {"SUCCEEDED": State.SUCCEEDED, "FAILED": State.FAILED, "STOPPED": State.STOPPED}
IMAGE = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}
BEGINNING = {"ContainerCreating", "PodInitializing"}  # no trouble, unless an event says so
LONGEST = 300  # characters of what others say


@dataclass(frozen=True)
class Around:
    """What belongs to a RayJob."""

    workloads: Sequence[Thing] = ()  # Kueue's
    pods: Sequence[Thing] = ()
    events: Sequence[Thing] = ()


def state(rayjob: Thing) -> State:
    """How far it is."""
    status = rayjob.get("status") or {}
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    settled = {"Complete": ENDED.get(job, State.SUCCEEDED), "Failed": State.FAILED, "ValidationFailed": State.FAILED}
    suspended = rayjob["spec"].get("suspend") or deployment in {"Suspending", "Suspended"}
    if "deletionTimestamp" in rayjob["metadata"]:
        return State.STOPPED
    if deployment in settled:
        return settled[deployment]
    if job == "SUCCEEDED":  # its submitter may take a while to notice
        return State.SUCCEEDED
    if suspended:
        return State.QUEUED if QUEUE in (rayjob["metadata"].get("labels") or {}) else State.SUSPENDED
    if deployment == "Retrying":
        return State.RETRYING
    return State.RUNNING if deployment == "Running" and job in {"RUNNING", "FAILED"} else State.STARTING


def why(rayjob: Thing, around: Around) -> str:
    """What it waits for, or of what it ended; "" where there is nothing to say."""
    at, status = state(rayjob), rayjob.get("status") or {}
    if at.over:
        said = (status.get("reason"), status.get("message"))
        return "" if at is State.SUCCEEDED else short(": ".join(text for text in said if text))
    if at is State.QUEUED:
        return admission(rayjob, around.workloads)
    if at is State.SUSPENDED:
        return "somebody has set spec.suspend"
    if at is State.RUNNING:
        return ""
    found = pods(around.pods, around.events) or warning(around.events) or "its cluster is being made"
    tries = int(status.get("failed") or 0)
    limit = int(rayjob["spec"].get("backoffLimit") or 0)
    return f"try {tries + 1} of {limit + 1}, from its latest checkpoint: {found}" if tries else found


def admission(rayjob: Thing, workloads: Sequence[Thing]) -> str:
    """What Kueue says."""
    queue = rayjob["metadata"]["labels"][QUEUE]
    for workload in workloads:
        status = workload.get("status") or {}
        conditions = {one["type"]: one for one in status.get("conditions") or []}
        checks = [
            f"{one['name']}: {one['message']}" for one in status.get("admissionChecks") or [] if one.get("message")
        ]
        for kind in ("Evicted", "QuotaReserved", "Admitted"):
            one = conditions.get(kind)
            wanted = "True" if kind == "Evicted" else "False"
            if one and one["status"] == wanted and one.get("message"):
                return short(
                    f"in the queue {queue}: {'; '.join(checks) if kind == 'Admitted' and checks else one['message']}"
                )
        if workload.get("spec", {}).get("active") is False:
            return f"in the queue {queue}: somebody has deactivated it"
    return f"in the queue {queue}"


def pods(found: Sequence[Thing], events: Sequence[Thing]) -> str:
    """How many are ready, and the first that cannot be; "" where there are none."""
    if not found:
        return ""
    count = f"{sum(map(ready, found))} of {len(found)} pods are ready"
    troubles = [text for pod in found if not ready(pod) and (text := trouble(pod, events))]
    return short(f"{count}; {troubles[0]}") if troubles else count


def ready(pod: Thing) -> bool:
    """Whether all its containers are."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def trouble(pod: Thing, events: Sequence[Thing]) -> str:
    """Why a pod does not come up; "" while nothing is wrong with it."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in IMAGE:
            return f"{name} cannot pull the image {container.get('image')} ({reason}): {message}"
        if reason and reason not in BEGINNING:
            ended = (container.get("lastState") or {}).get("terminated") or {}
            how = f", it ended with {ended.get('reason')} ({ended.get('exitCode')})" if ended else ""
            return f"{name}: {reason}{how}: {message}"
    for one in status.get("conditions") or []:
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return f"{name} cannot be scheduled: {one.get('message') or one.get('reason')}"
    told = [event for event in events if event["involvedObject"].get("name") == name]
    return f"{name}: {warning(told)}" if warning(told) else ""


def warning(events: Sequence[Thing]) -> str:
    """The newest one."""
    warned = [event for event in events if event.get("type") == "Warning"]
    newest = max(
        warned, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None
    )
    return short(f"{newest.get('reason')}: {newest.get('message')}") if newest else ""


def short(text: str) -> str:
    """On one line that can be read."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
