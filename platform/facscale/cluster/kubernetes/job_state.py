"""Derive a job's state, and the reason it is pending, from the RayJob and its related objects. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facscale.cluster.kubernetes.client import JobState
from facscale.cluster.kubernetes.manifest import QUEUE_LABEL

K8sObject = Mapping[str, Any]  # parsed JSON of the API
FINAL_STATES = {"SUCCEEDED": JobState.SUCCEEDED, "FAILED": JobState.FAILED, "STOPPED": JobState.STOPPED}
FIXED_REASONS = {
    JobState.STOPPING: "KubeRay stops it, then deletes its cluster",
    JobState.SUSPENDED: "somebody has set spec.suspend",
}
HINTS = {  # for reasons with which KubeRay ends a job without a retry
    "JobStatusCheckTimeoutExceeded": "; KubeRay's operator did not reach the head for minutes, and does not retry such a "
    "job: check the chart's networkPolicy.operator",
    "DeadlineExceeded": "; the chart's jobs.activeDeadlineSeconds is over",
}
IMAGE_REASONS = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}
NORMAL_REASONS = {
    "ContainerCreating",
    "PodInitializing",
}  # of a container that starts; a warning event may still follow
MAX_MESSAGE_LENGTH = 300  # characters of a message of Kubernetes, Kueue or KubeRay


@dataclass(frozen=True)
class RelatedObjects:
    """The objects that belong to a RayJob."""

    workloads: Sequence[K8sObject] = ()  # Kueue's
    pods: Sequence[K8sObject] = ()
    events: Sequence[K8sObject] = ()


def derive_state(rayjob: K8sObject) -> JobState:
    """Derive a job's state from its RayJob."""
    status = rayjob.get("status") or {}
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    ended = {
        "Complete": FINAL_STATES.get(job, JobState.SUCCEEDED),
        "Failed": JobState.FAILED,
        "ValidationFailed": JobState.FAILED,
    }
    is_suspended = rayjob["spec"].get("suspend") or deployment in {"Suspending", "Suspended"}
    if "deletionTimestamp" in rayjob["metadata"]:
        return JobState.STOPPING
    if deployment in ended:
        return ended[deployment]
    if job == "SUCCEEDED":  # the deployment status follows only when the submitter notices
        return JobState.SUCCEEDED
    if is_suspended:
        is_queued = QUEUE_LABEL in (rayjob["metadata"].get("labels") or {})
        return JobState.QUEUED if is_queued else JobState.SUSPENDED
    if deployment == "Retrying":
        return JobState.RETRYING
    is_running = deployment == "Running" and job in {"RUNNING", "FAILED"}
    return JobState.RUNNING if is_running else JobState.STARTING


def explain_state(rayjob: K8sObject, related: RelatedObjects) -> str:
    """Explain what a job waits for, or why it ended; "" if there is nothing to explain."""
    state, status = derive_state(rayjob), rayjob.get("status") or {}
    if state in {JobState.RUNNING, JobState.SUCCEEDED}:
        return ""
    failure = shorten(": ".join(part for part in (status.get("reason"), status.get("message")) if part))
    failure += HINTS.get(str(status.get("reason")), "")
    if state.is_terminal:
        return failure
    if state is JobState.QUEUED:
        return explain_admission(rayjob, related.workloads)
    if state in FIXED_REASONS:
        return FIXED_REASONS[state]
    reason = summarize_pods(related.pods, related.events) or get_newest_warning(related.events)
    reason = reason or "its cluster is being created"
    failures = int(status.get("failed") or 0)
    if failures:
        retries = int(rayjob["spec"].get("backoffLimit") or 0)
        last = f" (the last one failed: {failure})" if failure else ""
        return f"try {failures + 1} of {retries + 1}, from its latest checkpoint{last}: {reason}"
    return reason


def explain_admission(rayjob: K8sObject, workloads: Sequence[K8sObject]) -> str:
    """Explain from Kueue's workloads why a job has not been admitted."""
    queue = rayjob["metadata"]["labels"][QUEUE_LABEL]
    for workload in workloads:
        status = workload.get("status") or {}
        conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
        checks = [
            f"{check['name']}: {check['message']}"
            for check in status.get("admissionChecks") or []
            if check.get("message")
        ]
        for kind in ("Evicted", "QuotaReserved", "Admitted"):
            condition = conditions.get(kind)
            waiting_status = "True" if kind == "Evicted" else "False"
            if condition and condition["status"] == waiting_status and condition.get("message"):
                message = "; ".join(checks) if kind == "Admitted" and checks else condition["message"]
                return shorten(f"in the queue {queue}: {message}")
        if workload.get("spec", {}).get("active") is False:
            return f"in the queue {queue}: somebody has deactivated it"
    return f"in the queue {queue}"


def summarize_pods(pods: Sequence[K8sObject], events: Sequence[K8sObject]) -> str:
    """Count the pods that are ready, and explain the first that cannot start; "" without pods."""
    if not pods:
        return ""
    count = f"{sum(map(is_ready, pods))} of {len(pods)} pods are ready"
    problems = [problem for pod in pods if not is_ready(pod) and (problem := explain_pod(pod, events))]
    return shorten(f"{count}; {problems[0]}") if problems else count


def is_ready(pod: K8sObject) -> bool:
    """Return whether all containers of a pod are ready."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def explain_pod(pod: K8sObject, events: Sequence[K8sObject]) -> str:
    """Explain why a pod does not start; "" if nothing is known to be wrong with it."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in IMAGE_REASONS:
            return f"{name} cannot pull the image {container.get('image')} ({reason}): {message}"
        if reason and reason not in NORMAL_REASONS:
            terminated = (container.get("lastState") or {}).get("terminated") or {}
            exit_code = (
                f", it ended with {terminated.get('reason')} ({terminated.get('exitCode')})" if terminated else ""
            )
            return f"{name}: {reason}{exit_code}: {message}"
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name} cannot be scheduled: {condition.get('message') or condition.get('reason')}"
    warning = get_newest_warning([event for event in events if event["involvedObject"].get("name") == name])
    return f"{name}: {warning}" if warning else ""


def get_newest_warning(events: Sequence[K8sObject]) -> str:
    """Return reason and message of the newest warning among events; "" without warnings."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    newest = max(
        warnings, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None
    )
    return shorten(f"{newest.get('reason')}: {newest.get('message')}") if newest else ""


def shorten(text: str) -> str:
    """Bring a text to one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE_LENGTH else f"{line[: MAX_MESSAGE_LENGTH - 3]}..."
