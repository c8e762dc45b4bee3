"""Decide what a submission does if the job exists already, and which job a name means. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from facscale.cluster.kubernetes.client import JobState, JobStatus
from facscale.cluster.kubernetes.submission import JobSubmission
from facscale.errors import UserError


class JobError(UserError):
    """A name means no job, or several."""


class SubmitAction(Enum):
    """What `submit` does with a submission."""

    START = auto()  # the cluster has no such job
    RESTART = auto()  # remove the job that has ended or is being stopped, then start
    ATTACH = auto()  # the same job is running
    REPORT_FINISHED = auto()
    REPORT_FAILED = auto()
    REJECT_CONFLICT = auto()  # another job is writing to the same checkpoints


class SubmitDecision(NamedTuple):
    """An action, and the job on the cluster that it concerns."""

    action: SubmitAction
    job: JobStatus | None = None


def decide_submission(submission: JobSubmission, jobs: Sequence[JobStatus], *, again: bool) -> SubmitDecision:
    """Decide what `submit` does, given the cluster's jobs; `again` restarts a job that has ended.

    A stopped job is restarted in any case: a user who stops and then submits it wants it to continue. So is one that is
    being stopped, once it is gone.
    """
    same = [job for job in jobs if job.digest == submission.digest[:16]]
    same.sort(key=lambda job: job.state.is_terminal)  # a running one first
    rivals = [
        job
        for job in jobs
        if job.training_digest == submission.training_digest and not job.state.is_terminal and job not in same
    ]
    if same and not same[0].state.is_terminal and same[0].state is not JobState.STOPPING:
        return SubmitDecision(SubmitAction.ATTACH, same[0])
    if rivals:
        return SubmitDecision(SubmitAction.REJECT_CONFLICT, rivals[0])
    if not same:
        return SubmitDecision(SubmitAction.START)
    if again or same[0].state in {JobState.STOPPED, JobState.STOPPING}:
        return SubmitDecision(SubmitAction.RESTART, same[0])
    has_succeeded = same[0].state is JobState.SUCCEEDED
    return SubmitDecision(SubmitAction.REPORT_FINISHED if has_succeeded else SubmitAction.REPORT_FAILED, same[0])


class JobLocation(NamedTuple):
    """A job and the name of the cluster that it is on."""

    cluster: str
    job: JobStatus


def resolve_job(name: str, jobs_by_cluster: Mapping[str, Sequence[JobStatus] | UserError]) -> JobLocation:
    """Find the job that `name` means: an id, a job's name, or a prefix of either. Raises JobError for none, or several.

    `jobs_by_cluster` has the jobs of each cluster, or the error with which its query failed (`fanout.list_all_jobs`).
    """
    locations = [
        JobLocation(cluster, job)
        for cluster, jobs in jobs_by_cluster.items()
        if not isinstance(jobs, UserError)
        for job in jobs
    ]
    errors = [jobs for jobs in jobs_by_cluster.values() if isinstance(jobs, UserError)]
    unreachable = "".join(f"\n  no answer: {error}" for error in errors)
    by_id = [location for location in locations if location.job.id == name]
    by_name = [location for location in locations if location.job.name == name]
    by_prefix = [
        location for location in locations if location.job.id.startswith(name) or location.job.name.startswith(name)
    ]
    for matches in (by_id, by_name, by_prefix):
        running = [location for location in matches if not location.job.state.is_terminal]
        for candidates in (matches, running):
            if len(candidates) == 1:
                return candidates[0]
        if matches:
            raise JobError(
                f"{name} is ambiguous; choose one of these jobs, and name the cluster if need be:\n"
                f"{_format_jobs(matches)}{unreachable}"
            )
    existing = f"these exist:\n{_format_jobs(locations[:10])}" if locations else "there are none"
    raise JobError(f"there is no job {name}: {existing}{unreachable}")


def _format_jobs(locations: Sequence[JobLocation]) -> str:
    return "\n".join(f"  {job.id:<48} {job.state:<10} on {cluster}" for cluster, job in locations)
