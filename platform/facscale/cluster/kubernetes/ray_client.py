"""Client of a running Ray cluster by the address of its dashboard, on top of Ray's own JobSubmissionClient."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient
from ray.job_submission import JobStatus as RayJobStatus

from facscale.cluster.kubernetes.client import JobState, JobStatus, Submission
from facscale.cluster.kubernetes.clusters import RayTarget
from facscale.cluster.kubernetes.errors import JobNotFoundError, UnreachableError
from facscale.cluster.kubernetes.manifest import SubmitOptions
from facscale.cluster.kubernetes.submission import JobSubmission, ResourceRequest, get_submitter
from facscale.compat.ray import create_job_client
from facscale.errors import UserError

SPEC_FILE = "facscale-job.yaml"  # in the root of the upload
CONNECT_TIMEOUT_S = 5.0
POLL_S = 0.5  # how long `read_new` waits for a line
STOP_TIMEOUT_S = 60.0
STATES = {
    RayJobStatus.PENDING: JobState.STARTING,
    RayJobStatus.RUNNING: JobState.RUNNING,
    RayJobStatus.STOPPED: JobState.STOPPED,
    RayJobStatus.SUCCEEDED: JobState.SUCCEEDED,
    RayJobStatus.FAILED: JobState.FAILED,
}
VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class RayError(UserError):
    """A Ray cluster refuses a request, or cannot be used."""


class UnreachableRayError(RayError, UnreachableError):
    """The Ray cluster does not answer."""


class RayJobsClient:
    """The jobs of one Ray cluster (a `ClusterClient`)."""

    def __init__(self, target: RayTarget) -> None:
        self.target = target
        self._client: JobSubmissionClient | None = None
        for name in VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    def list_jobs(self) -> list[JobStatus]:
        """List all jobs that were submitted to the cluster, the newest first."""
        with self._translate_errors():
            jobs = [parse_status(details) for details in self._connect().list_jobs() if details.submission_id]
        return sorted(jobs, key=lambda job: job.submitted_at or datetime.min.replace(tzinfo=UTC), reverse=True)

    def get_job(self, job: str) -> JobStatus:
        """Return the status of a job. Raises JobNotFoundError."""
        with self._translate_errors(job):
            return parse_status(self._connect().get_job_info(job))

    def open_log(self, job: str) -> DashboardLogStream:
        """Open the log of a job at its beginning."""
        with self._translate_errors(job):
            return DashboardLogStream(self._connect().tail_job_logs(job))

    def get_log(self, job: str, *, last: int | None = None) -> list[str]:
        """Return what a job has printed so far, or its last lines. Ray always sends all of it."""
        with self._translate_errors(job):
            return str(self._connect().get_job_logs(job)).splitlines()[-(last or 0) :]

    def submit(
        self, submission: JobSubmission, *, request: ResourceRequest, options: SubmitOptions, replaced: str = ""
    ) -> Submission:
        """Upload spec and code, and start the job under an id that follows from that of the job which it replaces.

        Ray kills the remaining processes of a stopped job by its id, some seconds after it reports the job as stopped.
        With the same id it would kill the new job.
        """
        job = f"{submission.id}-{hashlib.sha256(replaced.encode()).hexdigest()[:4]}"
        if names := [name for name, value in vars(options).items() if value]:
            raise RayError(f"{self.target.name} is a running Ray cluster: --{names[0]} is for Kubernetes")
        metadata = {
            "facscale.job": submission.name,
            "facscale.spec": submission.digest[:16],
            "facscale.trains": submission.training_digest,
            "facscale.who": get_submitter(),
            "facscale.words": submission.command,
            "facscale.workers": request.worker_range,
        }
        with tempfile.TemporaryDirectory(prefix="facscale-submit-") as folder:
            if submission.code:
                zipfile.ZipFile(BytesIO(submission.code.content)).extractall(folder)
            (Path(folder) / SPEC_FILE).write_text(submission.spec_text, encoding="utf-8")
            with self._translate_errors():
                try:
                    self._connect().submit_job(
                        entrypoint=f"facscale run {SPEC_FILE}",
                        submission_id=job,
                        runtime_env={"working_dir": folder},
                        metadata=metadata,
                    )
                except RuntimeError as error:
                    if "already exists" not in str(error):
                        raise
                    return Submission(job, is_new=False)
        return Submission(job, is_new=True)

    def complete(self, submission: JobSubmission, job: JobStatus) -> None:
        """Do nothing: Ray starts a job as a whole, or not."""

    def remove(self, job: JobStatus) -> None:
        """Delete the record of a job that has ended."""
        with contextlib.suppress(JobNotFoundError), self._translate_errors(job.id):
            self._connect().delete_job(job.id)

    def cancel(self, job: str) -> None:
        """Stop a job and wait until it has stopped. Ray asks its driver to end, and kills it 3 s later."""
        with self._translate_errors(job):
            self._connect().stop_job(job)
        end = time.monotonic() + STOP_TIMEOUT_S
        while not self.get_job(job).state.is_terminal:
            if time.monotonic() > end:
                raise RayError(
                    f"{self.target.name}: {job} still runs, {STOP_TIMEOUT_S:.0f} s after the request to stop it; look "
                    "at its log, and try again"
                )
            time.sleep(POLL_S)

    def _connect(self) -> JobSubmissionClient:
        """Return the client, connected on first use."""
        if self._client is None:
            token = self._read_token()
            self._check_port()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            try:
                self._client = create_job_client(self.target.address, headers=headers)
            except (KeyError, ValueError, requests.HTTPError) as error:
                raise RayError(
                    f"{self.target.name}: what answers at {self.target.address} is no Ray dashboard: {error}"
                ) from None
        return self._client

    def _check_port(self) -> None:
        """Raise OSError if nothing listens at the address; Ray's client would wait for minutes."""
        url = urlsplit(self.target.address)
        port = url.port or {"https": 443}.get(url.scheme, 80)
        socket.create_connection((url.hostname or "", port), timeout=CONNECT_TIMEOUT_S).close()

    def _read_token(self) -> str:
        """Read the cluster's token file; "" without one leaves it to RAY_AUTH_MODE and RAY_AUTH_TOKEN."""
        if not self.target.token_file:
            return ""
        path = Path(self.target.token_file).expanduser()
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RayError(
                f"{self.target.name}: the token_file of your clusters file cannot be read: {error}"
            ) from None

    @contextmanager
    def _translate_errors(self, job: str = "") -> Iterator[None]:
        """Translate the exceptions of Ray's client to UserErrors."""
        name, address = self.target.name, self.target.address
        try:
            yield
        except AuthenticationError:
            file = self.target.token_file
            reason = f"the token in {file} is not the one" if file else "it wants a token"
            raise RayError(
                f"{name}: the Ray cluster at {address} does not let you in: {reason}. Add `token_file:` with the "
                "cluster's token to your clusters file, or set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from None
        except (OSError, requests.RequestException) as error:
            reason = str(error).rpartition(": ")[2]
            raise UnreachableRayError(
                f"{name}: no Ray cluster answers at {address} ({reason}): does it still run, is the VPN or "
                "port-forward on?"
            ) from None
        except RuntimeError as error:  # all other errors of Ray's client
            if "404" in str(error) or "does not exist" in str(error):
                raise JobNotFoundError(f"{name}: there is no job {job} (any more)") from None
            raise RayError(f"{name}: Ray refuses: {error}") from None


class DashboardLogStream:
    """The log of a job, sent by Ray's dashboard over a WebSocket (a `LogStream`)."""

    def __init__(self, chunks: AsyncIterator[str]) -> None:
        self._chunks = chunks
        self._loop = asyncio.new_event_loop()
        self._next: asyncio.Task[str | None] | None = None
        self._incomplete_line = ""

    def read_new(self) -> list[str]:
        """Return the complete lines that arrive within half a second."""
        if self._loop.is_closed():
            return []
        self._next = self._next or self._loop.create_task(self._read_chunk())
        self._loop.run_until_complete(asyncio.wait({self._next}, timeout=POLL_S))
        if not self._next.done():
            return []
        text, self._next = self._next.result(), None
        if text is None:
            self.close()
            return [self._incomplete_line] if self._incomplete_line else []
        *lines, self._incomplete_line = (self._incomplete_line + text).split("\n")
        return lines

    def close(self) -> None:
        """Close the connection; afterwards there are no new lines."""
        if self._loop.is_closed():
            return
        if self._next:
            self._next.cancel()
            self._loop.run_until_complete(asyncio.wait({self._next}))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _read_chunk(self) -> str | None:
        """Return the next chunk; None at the end of the job or of the dashboard, which `get_job` distinguishes."""
        try:
            return await anext(self._chunks, None)
        except (RuntimeError, OSError, aiohttp.ClientError):
            return None


def parse_status(details: JobDetails) -> JobStatus:
    """Convert the details of a Ray job to the status that all clusters share.

    Jobs of other programs have none of our metadata; id and entrypoint stand for name and command.
    """
    metadata = details.metadata or {}
    state = STATES[details.status]
    job = str(details.submission_id)
    has_reason = state not in {JobState.RUNNING, JobState.SUCCEEDED}
    return JobStatus(
        id=job,
        name=metadata.get("facscale.job", job),
        state=state,
        reason=" ".join((details.message or "").split())[:300] if has_reason else "",
        workers=metadata.get("facscale.workers", ""),
        submitted_at=datetime.fromtimestamp(details.start_time / 1000, UTC) if details.start_time else None,
        submitter=metadata.get("facscale.who", ""),
        command=metadata.get("facscale.words", details.entrypoint),
        digest=metadata.get("facscale.spec", ""),
        training_digest=metadata.get("facscale.trains", ""),
    )
