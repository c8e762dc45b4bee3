"""Jobs on a Ray cluster that is reached by the address of its dashboard, through Ray's own client."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from facscale.cluster.kubernetes.clusters import RayPlace
from facscale.cluster.kubernetes.failures import GoneError, UnreachableError
from facscale.cluster.kubernetes.host import Standing, State
from facscale.cluster.kubernetes.manifest import Wish
from facscale.cluster.kubernetes.order import Need, Order, who
from facscale.errors import UserError

HERE = "facscale-job.yaml"  # the spec, in the root of what is uploaded
CONNECT_S = 5.0
POLL_S = 0.5  # how long `more` waits for a line
PATIENCE_S = 60.0  # for a job to stop
OVERRULE = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # variables that Ray's client obeys before its own argument
STATES = {
    JobStatus.PENDING: State.STARTING,
    JobStatus.RUNNING: State.RUNNING,
    JobStatus.STOPPED: State.STOPPED,
    JobStatus.SUCCEEDED: State.SUCCEEDED,
    JobStatus.FAILED: State.FAILED,
}
CHATTY = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
_environment = Lock()


class RayError(UserError):
    """A Ray cluster does not do what was asked of it."""


class SilentRayError(RayError, UnreachableError):
    """No answer from a Ray cluster."""


class RayAddress:
    """The jobs of one Ray cluster (a `Host`)."""

    def __init__(self, place: RayPlace) -> None:
        self.place = place
        self._client: JobSubmissionClient | None = None
        for name in CHATTY:
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)

    def jobs(self) -> list[Standing]:
        """All that were submitted there, the newest first."""
        with self._asking():
            found = [standing(one) for one in self._connected().list_jobs() if one.submission_id]
        return sorted(found, key=lambda one: one.began or datetime.min.replace(tzinfo=UTC), reverse=True)

    def look(self, job: str) -> Standing:
        """One job."""
        with self._asking(job):
            return standing(self._connected().get_job_info(job))

    def log(self, job: str) -> SocketLog:
        """Of one job, from its beginning."""
        with self._asking(job):
            return SocketLog(self._connected().tail_job_logs(job))

    def lines(self, job: str, *, last: int | None = None) -> list[str]:
        """What it has printed; Ray gives it whole."""
        with self._asking(job):
            return str(self._connected().get_job_logs(job)).splitlines()[-(last or 0) :]

    def submit(self, order: Order, *, need: Need, wish: Wish) -> str:
        """Upload spec and code, and start it there.

        Each time under another id: Ray ends what is left of a stopped job by its id, for some seconds after it is told as
        stopped, and would end the new one.
        """
        job = f"{order.id}-{secrets.token_hex(2)}"
        if given := [name for name, value in vars(wish).items() if value]:
            raise RayError(f"{self.place.name} is a Ray cluster as it stands: --{given[0]} is for Kubernetes")
        notes = {
            "job": order.job,
            "spec": order.digest[:16],
            "trains": order.trains,
            "who": who(),
            "words": order.words,
        }
        notes["workers"] = f"{need.fewest}" if need.fewest == need.most else f"{need.fewest}-{need.most}"
        with tempfile.TemporaryDirectory(prefix="facscale-submit-") as folder:
            if order.code:
                zipfile.ZipFile(BytesIO(order.code.zipped)).extractall(folder)
            (Path(folder) / HERE).write_text(order.text, encoding="utf-8")
            with self._asking():
                self._connected().submit_job(
                    entrypoint=f"facscale run {HERE}",
                    submission_id=job,
                    runtime_env={"working_dir": folder},
                    metadata={f"facscale.{name}": value for name, value in notes.items()},
                )
        return job

    def remove(self, job: str) -> None:
        """Forget a job that is over."""
        with self._asking(job):
            self._connected().delete_job(job)

    def cancel(self, job: str) -> None:
        """Ray asks the driver to end, and ends it 3 s later."""
        with self._asking(job):
            self._connected().stop_job(job)
        end = time.monotonic() + PATIENCE_S
        while not self.look(job).state.over:
            if time.monotonic() > end:
                raise RayError(f"{self.place.name}: {job} was told to stop {PATIENCE_S:.0f} s ago and still runs")
            time.sleep(POLL_S)

    def _connected(self) -> JobSubmissionClient:
        if self._client is None:
            token = self._token()
            self._knock()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            try:
                with only_its_argument():
                    self._client = JobSubmissionClient(self.place.address, headers=headers)
            except (KeyError, ValueError, requests.HTTPError) as error:
                raise RayError(
                    f"{self.place.name}: what answers at {self.place.address} is no Ray dashboard: {error}"
                ) from None
        return self._client

    def _knock(self) -> None:
        """Ray's client waits for minutes where nobody answers."""
        url = urlsplit(self.place.address)
        port = url.port or {"https": 443}.get(url.scheme, 80)
        socket.create_connection((url.hostname or "", port), timeout=CONNECT_S).close()

    def _token(self) -> str:
        """Of the place; "" leaves it to Ray's own variables, RAY_AUTH_MODE and RAY_AUTH_TOKEN."""
        if not self.place.token_file:
            return ""
        path = Path(self.place.token_file).expanduser()
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RayError(f"{self.place.name}: the token_file of your clusters file cannot be read: {error}") from None

    @contextmanager
    def _asking(self, job: str = "") -> Iterator[None]:
        """Failures of the client as ours."""
        name, address = self.place.name, self.place.address
        try:
            yield
        except AuthenticationError:
            has = (
                f"the token in {self.place.token_file} is not the one" if self.place.token_file else "it wants a token"
            )
            raise RayError(
                f"{name}: the Ray cluster at {address} does not let you in: {has}. Write `token_file:` with the cluster's "
                "token into your clusters file, or set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from None
        except (OSError, requests.RequestException) as error:
            why = str(error).rpartition(": ")[2]
            raise SilentRayError(
                f"{name}: no Ray cluster answers at {address} ({why}): does it still stand, is the VPN or port-forward on?"
            ) from None
        except RuntimeError as error:  # Ray's client has no other kind
            if "404" in str(error) or "does not exist" in str(error):
                raise GoneError(f"{name}: there is no job {job} (any more)") from None
            raise RayError(f"{name}: Ray refuses: {error}") from None


class SocketLog:
    """A job's log as Ray's dashboard sends it."""

    def __init__(self, chunks: AsyncIterator[str]) -> None:
        self._chunks = chunks
        self._loop = asyncio.new_event_loop()
        self._next: asyncio.Task[str | None] | None = None
        self._rest = ""

    def more(self) -> list[str]:
        """Lines that come within half a second."""
        if self._loop.is_closed():
            return []
        self._next = self._next or self._loop.create_task(self._chunk())
        self._loop.run_until_complete(asyncio.wait({self._next}, timeout=POLL_S))
        if not self._next.done():
            return []
        text, self._next = self._next.result(), None
        if text is None:
            self.close()
            return [self._rest] if self._rest else []
        *lines, self._rest = (self._rest + text).split("\n")
        return lines

    def close(self) -> None:
        """Listen no more."""
        if self._loop.is_closed():
            return
        if self._next:
            self._next.cancel()
            self._loop.run_until_complete(asyncio.wait({self._next}))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _chunk(self) -> str | None:
        """None where the job is over, or the dashboard has gone: `look` tells which."""
        try:
            return await anext(self._chunks, None)
        except (RuntimeError, OSError, aiohttp.ClientError):
            return None


@contextmanager
def only_its_argument() -> Iterator[None]:
    """Let Ray's client take the address that it is given: RAY_ADDRESS would overrule it."""
    with _environment:
        kept = {name: os.environ.pop(name) for name in OVERRULE if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(kept)


def standing(details: JobDetails) -> Standing:
    """A job of Ray's in the words that all clusters share."""
    notes: dict[str, Any] = {name.removeprefix("facscale."): value for name, value in (details.metadata or {}).items()}
    state = STATES[details.status]
    job = str(details.submission_id)
    return Standing(
        id=job,
        job=notes.get("job", job),
        state=state,
        why="" if state in {State.RUNNING, State.SUCCEEDED} else " ".join((details.message or "").split())[:300],
        workers=notes.get("workers", ""),
        began=datetime.fromtimestamp(details.start_time / 1000, UTC) if details.start_time else None,
        who=notes.get("who", ""),
        words=notes.get("words", details.entrypoint),
        spec=notes.get("spec", ""),
        trains=notes.get("trains", ""),
    )
