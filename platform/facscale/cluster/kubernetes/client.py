"""The interface to a cluster, the same for Kubernetes and Ray: submit, list, read logs, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from facscale.cluster.kubernetes.clusters import ClusterTarget
from facscale.cluster.kubernetes.manifest import SubmitOptions
from facscale.cluster.kubernetes.submission import JobSubmission, ResourceRequest
from facscale.progress import BarLine, parse_bar


class JobState(StrEnum):
    """The phase of a job."""

    QUEUED = "queued"  # waits for admission
    SUSPENDED = "suspended"
    STARTING = "starting"
    RUNNING = "running"
    RETRYING = "retrying"
    STOPPING = "stopping"  # is being removed, and may still write checkpoints
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED}


@dataclass(frozen=True)
class JobStatus:
    """A snapshot of a job on a cluster."""

    id: str  # of the RayJob, or of the submission to Ray
    name: str
    state: JobState
    reason: str = ""  # why it is pending, or why it ended
    workers: str = ""  # "4", or "2-8"
    submitted_at: datetime | None = None
    submitter: str = ""  # user@machine
    command: str = ""  # arguments of `facscale submit`
    digest: str = ""  # 16 digits of the submission's
    training_digest: str = ""  # 16 digits, the submission's
    attempts: int = 1
    options: SubmitOptions = field(default_factory=SubmitOptions)  # with which it was submitted
    uid: str = ""  # tells it from earlier and later jobs of the same id; "" where ids are not used again

    @property
    def age_s(self) -> float:
        """Seconds since the submission; 0 if its time is unknown."""
        return (datetime.now(UTC) - self.submitted_at).total_seconds() if self.submitted_at else 0.0


class Submission(NamedTuple):
    """The job that a submission has become."""

    job: str
    is_new: bool  # False: somebody else submitted the same at the same time, and this is their job


class LogStream(Protocol):
    """The log of a job, read while it grows."""

    def read_new(self) -> list[str]:
        """Return the lines since the last call; soon, also if there are none."""
        ...

    def close(self) -> None:
        """Release the connection; afterwards there are no new lines."""
        ...


class ClusterClient(Protocol):
    """A cluster. Every method raises a UserError if the cluster refuses or does not answer."""

    @property
    def target(self) -> ClusterTarget:
        """The cluster's name and address."""
        ...

    def list_jobs(self) -> list[JobStatus]:
        """List all jobs that facscale submitted to the cluster, the newest first."""
        ...

    def get_job(self, job: str) -> JobStatus:
        """Return the status of a job by its id, with the reason if it is pending. Raises JobNotFoundError."""
        ...

    def open_log(self, job: str) -> LogStream:
        """Open the log of a job at its beginning."""
        ...

    def get_log(self, job: str, *, last: int | None = None) -> list[str]:
        """Return all lines that a job has printed so far, or at most the `last` ones."""
        ...

    def submit(
        self, submission: JobSubmission, *, request: ResourceRequest, options: SubmitOptions, replaced: str = ""
    ) -> Submission:
        """Start a job. Of several clients that submit the same at the same time, one starts it.

        `replaced` is the id of the same job that ran before and was removed.
        """
        ...

    def complete(self, submission: JobSubmission, job: JobStatus) -> None:
        """Create what a running job lacks because its submission was interrupted."""
        ...

    def remove(self, job: JobStatus) -> None:
        """Delete the record of a job that has ended, so that it can be submitted again, and wait until it is gone."""
        ...

    def cancel(self, job: str) -> None:
        """Stop a job and wait until it has stopped. Its checkpoints in storage stay."""
        ...


def find_progress(lines: Sequence[str]) -> BarLine | None:
    """Return the last progress bar in some lines of a log."""
    return next((bar for bar in map(parse_bar, reversed(lines)) if bar), None)
