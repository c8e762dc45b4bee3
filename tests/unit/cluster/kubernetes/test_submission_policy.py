"""Which job a name means; what a second submission of the same job does."""

from __future__ import annotations

import pytest

from facscale.cluster.kubernetes.client import JobState, JobStatus
from facscale.cluster.kubernetes.submission import build_submission
from facscale.cluster.kubernetes.submission_policy import JobError, SubmitAction, decide_submission, resolve_job
from facscale.errors import UserError


def job(id_, state=JobState.RUNNING, **more):
    return JobStatus(id=id_, name=id_.rsplit("-", 1)[0], state=state, **more)


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
        "lab": [job("moco-dddd", JobState.FAILED), job("simclr-eeee", JobState.SUCCEEDED)],
        "away": UserError("away: no answer"),
    }
    assert resolve_job(name, jobs).job.id == expected


def test_a_name_that_means_several_or_none():
    jobs = {"munich": [job("clp-aaaa")], "lab": [job("clp-bbbb")], "away": UserError("away: no answer")}
    with pytest.raises(JobError, match=r"(?s)clp is ambiguous.*clp-aaaa .* on munich.*clp-bbbb .* on lab.*away: no"):
        resolve_job("clp", jobs)
    with pytest.raises(JobError, match=r"(?s)there is no job moco: these exist.*clp-aaaa.*no answer: away: no answer"):
        resolve_job("moco", jobs)


@pytest.fixture
def made(spec):
    return build_submission(spec(), [])


def same(made, state, **more):
    return JobStatus(
        id=made.id, name="clp", state=state, digest=made.digest[:16], training_digest=made.training_digest, **more
    )


@pytest.mark.parametrize(
    ("state", "again", "expected"),
    [
        (JobState.RUNNING, False, SubmitAction.ATTACH),
        (JobState.QUEUED, True, SubmitAction.ATTACH),
        (JobState.RETRYING, False, SubmitAction.ATTACH),
        (JobState.SUCCEEDED, False, SubmitAction.REPORT_FINISHED),
        (JobState.SUCCEEDED, True, SubmitAction.RESTART),
        (JobState.FAILED, False, SubmitAction.REPORT_FAILED),
        (JobState.FAILED, True, SubmitAction.RESTART),
        (JobState.STOPPED, False, SubmitAction.RESTART),
    ],
)
def test_the_same_spec_submitted_again(made, state, again, expected):
    assert decide_submission(made, [same(made, state)], again=again).action is expected


def test_another_spec_that_writes_to_the_same_checkpoints(made, spec):
    wider = build_submission(spec(), ["cluster.workers=8"])
    assert decide_submission(wider, [same(made, JobState.RUNNING)], again=True).action is SubmitAction.REJECT_CONFLICT
    assert decide_submission(wider, [same(made, JobState.FAILED)], again=False).action is SubmitAction.START
    assert (
        decide_submission(build_submission(spec(), ["seed=7"]), [same(made, JobState.RUNNING)], again=False).action
        is SubmitAction.START
    )
