"""The state of a RayJob, and the reason that it is pending, from the objects that belong to it."""

from __future__ import annotations

import pytest

from facscale.cluster.kubernetes.client import JobState
from facscale.cluster.kubernetes.job_state import RelatedObjects, derive_state, explain_state

QUEUED = {"kueue.x-k8s.io/queue-name": "gpu"}


def rayjob(deployment="", job="", *, labels=None, spec=None, **status):
    body = {
        "metadata": {"name": "clp-1", "uid": "u", "labels": labels or {}},
        "spec": {"backoffLimit": 3} | (spec or {}),
    }
    return body | {"status": {"jobDeploymentStatus": deployment, "jobStatus": job} | status}


def pod(name, *, waiting=None, unschedulable="", ready="False", last=None):
    conditions = [{"type": "Ready", "status": ready}]
    if unschedulable:
        conditions.append(
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unschedulable}
        )
    container = {"image": "faces:9", "state": {"waiting": waiting} if waiting else {}, "lastState": last or {}}
    return {"metadata": {"name": name}, "status": {"conditions": conditions, "containerStatuses": [container]}}


def event(of, reason, message, at="2026-11-25T03:00:00Z", kind="Warning"):
    return {"involvedObject": {"name": of}, "type": kind, "reason": reason, "message": message, "lastTimestamp": at}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rayjob(), JobState.STARTING),
        (rayjob("Initializing"), JobState.STARTING),
        (rayjob("Running"), JobState.STARTING),
        (rayjob("Running", "PENDING"), JobState.STARTING),
        (rayjob("Running", "RUNNING"), JobState.RUNNING),
        (rayjob("Running", "FAILED"), JobState.RUNNING),  # a retry may follow
        (rayjob("Running", "SUCCEEDED"), JobState.SUCCEEDED),
        (rayjob("Retrying", "FAILED", failed=1), JobState.RETRYING),
        (rayjob("Complete", "SUCCEEDED"), JobState.SUCCEEDED),
        (rayjob("Complete", "STOPPED"), JobState.STOPPED),
        (rayjob("Failed", "FAILED"), JobState.FAILED),
        (rayjob("Failed", ""), JobState.FAILED),
        (rayjob("ValidationFailed"), JobState.FAILED),
        (rayjob("Suspended", spec={"suspend": True}), JobState.SUSPENDED),
        (rayjob("Suspended", spec={"suspend": True}, labels=QUEUED), JobState.QUEUED),
        ({"metadata": {"name": "new"}, "spec": {}}, JobState.STARTING),
        ({"metadata": {"name": "x", "deletionTimestamp": "now"}, "spec": {}}, JobState.STOPPING),
    ],
)
def test_how_far_it_is(body, expected):
    assert derive_state(body) is expected


def conditions(*found):
    return [{"type": kind, "status": status, "message": message} for kind, status, message in found]


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ({}, "in the queue gpu"),
        (
            {"status": {"conditions": conditions(("QuotaReserved", "False", "insufficient quota for nvidia.com/gpu"))}},
            "in the queue gpu: insufficient quota for nvidia.com/gpu",
        ),
        (
            {"status": {"conditions": conditions(("Evicted", "True", "preempted by team-b"))}},
            "in the queue gpu: preempted by team-b",
        ),
        (
            {
                "status": {
                    "conditions": conditions(("QuotaReserved", "True", ""), ("Admitted", "False", "not all checks")),
                    "admissionChecks": [{"name": "provision", "message": "waiting for nodes"}],
                }
            },
            "in the queue gpu: provision: waiting for nodes",
        ),
        ({"spec": {"active": False}}, "in the queue gpu: somebody has deactivated it"),
    ],
)
def test_what_the_queue_says(workload, expected):
    body = rayjob("Suspended", spec={"suspend": True}, labels=QUEUED)
    assert explain_state(body, RelatedObjects(workloads=[workload])) == expected


@pytest.mark.parametrize(
    ("pods", "events", "expected"),
    [
        ([], [], "its cluster is being created"),
        (
            [],
            [
                event("clp-1", "FailedCreate", "old", "2026-11-25T02:00:00Z"),
                event("clp-1", "FailedCreate", "exceeded quota"),
            ],
            "FailedCreate: exceeded quota",
        ),
        ([pod("head", ready="True"), pod("w", waiting={"reason": "ContainerCreating"})], [], "1 of 2 pods are ready"),
        (
            [pod("w", unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")],
            [],
            "0 of 1 pods are ready; w cannot be scheduled: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        ),
        (
            [pod("w", waiting={"reason": "ImagePullBackOff", "message": "not found"})],
            [],
            "0 of 1 pods are ready; w cannot pull the image faces:9 (ImagePullBackOff): not found",
        ),
        (
            [pod("w", waiting={"reason": "CreateContainerConfigError", "message": 'secret "s" not found'})],
            [],
            '0 of 1 pods are ready; w: CreateContainerConfigError: secret "s" not found',
        ),
        (
            [
                pod(
                    "w",
                    waiting={"reason": "CrashLoopBackOff", "message": "back-off"},
                    last={"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                )
            ],
            [],
            "0 of 1 pods are ready; w: CrashLoopBackOff, it ended with OOMKilled (137): back-off",
        ),
        (
            [pod("w", waiting={"reason": "ContainerCreating"})],
            [event("w", "FailedMount", 'configmap "clp-1-spec" not found'), event("x", "Other", "not ours")],
            '0 of 1 pods are ready; w: FailedMount: configmap "clp-1-spec" not found',
        ),
    ],
)
def test_what_its_pods_wait_for(pods, events, expected):
    assert explain_state(rayjob("Initializing"), RelatedObjects(pods=pods, events=events)) == expected


def test_a_retry_says_that_it_goes_on_from_the_checkpoint():
    assert explain_state(rayjob("Initializing", failed=2), RelatedObjects()).startswith(
        "try 3 of 4, from its latest checkpoint: "
    )


def test_why_it_failed():
    body = rayjob("Failed", "FAILED", reason="AppFailed", message="Job entrypoint command\nfailed with exit code 2")
    assert explain_state(body, RelatedObjects()) == "AppFailed: Job entrypoint command failed with exit code 2"
    assert len(explain_state(rayjob("Failed", message="x" * 9999), RelatedObjects())) == 300
