"""What a RayJob and the objects around it say in words; which job a name means; what a second submission does."""

from __future__ import annotations

import pytest

from facscale.cluster.kubernetes.deciding import Do, JobError, decide, find
from facscale.cluster.kubernetes.host import Standing, State
from facscale.cluster.kubernetes.order import order
from facscale.cluster.kubernetes.waiting import Around, state, why
from facscale.errors import UserError

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
        (rayjob(), State.STARTING),
        (rayjob("Initializing"), State.STARTING),
        (rayjob("Running"), State.STARTING),
        (rayjob("Running", "PENDING"), State.STARTING),
        (rayjob("Running", "RUNNING"), State.RUNNING),
        (rayjob("Running", "FAILED"), State.RUNNING),  # a retry may follow
        (rayjob("Running", "SUCCEEDED"), State.SUCCEEDED),
        (rayjob("Retrying", "FAILED", failed=1), State.RETRYING),
        (rayjob("Complete", "SUCCEEDED"), State.SUCCEEDED),
        (rayjob("Complete", "STOPPED"), State.STOPPED),
        (rayjob("Failed", "FAILED"), State.FAILED),
        (rayjob("Failed", ""), State.FAILED),
        (rayjob("ValidationFailed"), State.FAILED),
        (rayjob("Suspended", spec={"suspend": True}), State.SUSPENDED),
        (rayjob("Suspended", spec={"suspend": True}, labels=QUEUED), State.QUEUED),
        ({"metadata": {"name": "new"}, "spec": {}}, State.STARTING),
        ({"metadata": {"name": "x", "deletionTimestamp": "now"}, "spec": {}}, State.STOPPED),
    ],
)
def test_how_far_it_is(body, expected):
    assert state(body) is expected


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
    assert why(body, Around(workloads=[workload])) == expected


@pytest.mark.parametrize(
    ("pods", "events", "expected"),
    [
        ([], [], "its cluster is being made"),
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
    assert why(rayjob("Initializing"), Around(pods=pods, events=events)) == expected


def test_a_retry_says_that_it_goes_on_from_the_checkpoint():
    assert why(rayjob("Initializing", failed=2), Around()).startswith("try 3 of 4, from its latest checkpoint: ")


def test_why_it_failed():
    body = rayjob("Failed", "FAILED", reason="AppFailed", message="Job entrypoint command\nfailed with exit code 2")
    assert why(body, Around()) == "AppFailed: Job entrypoint command failed with exit code 2"
    assert len(why(rayjob("Failed", message="x" * 9999), Around())) == 300


def job(id_, state=State.RUNNING, **more):
    return Standing(id=id_, job=id_.rsplit("-", 1)[0], state=state, **more)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clp-aaaa", "clp-aaaa"),  # exact
        ("moco", "moco-cccc"),  # the job's name; the dead one of that name is passed over
        ("clp-a", "clp-aaaa"),  # how it begins
        ("simc", "simclr-eeee"),
    ],
)
def test_a_name_means_one_job(name, expected):
    jobs = {
        "munich": [job("clp-aaaa"), job("clp-bbbb"), job("moco-cccc")],
        "lab": [job("moco-dddd", State.FAILED), job("simclr-eeee", State.SUCCEEDED)],
        "away": UserError("away: no answer"),
    }
    assert find(name, jobs).job.id == expected


def test_a_name_that_means_several_or_none():
    jobs = {"munich": [job("clp-aaaa")], "lab": [job("clp-bbbb")], "away": UserError("away: no answer")}
    with pytest.raises(
        JobError, match=r"(?s)clp may be each of these.*clp-aaaa .* on munich.*clp-bbbb .* on lab.*away: no"
    ):
        find("clp", jobs)
    with pytest.raises(
        JobError, match=r"(?s)there is no job moco: these are there.*clp-aaaa.*not asked: away: no answer"
    ):
        find("moco", jobs)


@pytest.fixture
def made(spec):
    return order(spec(), [])


def same(made, state, **more):
    return Standing(id=made.id, job="clp", state=state, spec=made.digest[:16], trains=made.trains, **more)


@pytest.mark.parametrize(
    ("state", "again", "expected"),
    [
        (State.RUNNING, False, Do.ATTACH),
        (State.QUEUED, True, Do.ATTACH),
        (State.RETRYING, False, Do.ATTACH),
        (State.SUCCEEDED, False, Do.TELL_FINISHED),
        (State.SUCCEEDED, True, Do.AGAIN),
        (State.FAILED, False, Do.TELL_FAILED),
        (State.FAILED, True, Do.AGAIN),
        (State.STOPPED, False, Do.AGAIN),
    ],
)
def test_the_same_spec_submitted_again(made, state, again, expected):
    assert decide(made, [same(made, state)], again=again).do is expected


def test_another_spec_that_writes_to_the_same_checkpoints(made, spec):
    wider = order(spec(), ["cluster.workers=8"])
    assert decide(wider, [same(made, State.RUNNING)], again=True).do is Do.TELL_RIVAL
    assert decide(wider, [same(made, State.FAILED)], again=False).do is Do.START
    assert decide(order(spec(), ["seed=7"]), [same(made, State.RUNNING)], again=False).do is Do.START
