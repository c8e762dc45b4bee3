"""A Ray cluster by its address: what answers, what its jobs are called here, and how its log comes."""

from __future__ import annotations

import asyncio
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from facscale.cluster.kubernetes import JobState, RayTarget, create_client, ray_client
from facscale.cluster.kubernetes.errors import UnreachableError
from facscale.cluster.kubernetes.ray_client import DashboardLogStream, RayError, parse_status
from facscale.errors import UserError


@pytest.fixture
def answering():
    """A function: the address of a server that says this to everything."""
    servers = []

    def serve(status, text):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "text"), [(200, "<html>hello</html>"), (200, "{}"), (500, "broken")])
def test_what_is_no_dashboard_is_told(answering, status, text):
    with pytest.raises(RayError, match="what answers at http://127.0.0.1:.* is no Ray dashboard"):
        create_client(RayTarget("lab", answering(status, text))).list_jobs()


@pytest.mark.parametrize(
    ("status", "message"), [(401, "it wants a token"), (403, "the token in .*token is not the one")]
)
def test_who_is_not_let_in(answering, tmp_path, status, message):
    (tmp_path / "token").write_text("wrong")
    file = str(tmp_path / "token") if status == 403 else ""
    with pytest.raises(RayError, match=f"does not let you in: {message}"):
        create_client(RayTarget("lab", answering(status, "no"), token_file=file)).list_jobs()


def test_nobody_answers_and_a_token_that_is_not_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(UnreachableError, match=r"lab: no Ray cluster answers at http://127.0.0.1:\d+ \(.*refused"):
        create_client(RayTarget("lab", silent)).list_jobs()
    with pytest.raises(UserError, match="token_file of your clusters file cannot be read"):
        create_client(RayTarget("lab", silent, token_file=str(tmp_path / "none"))).list_jobs()


def details(status, **more):
    return JobDetails(type=JobType.SUBMISSION, submission_id="clp-1", status=status, entrypoint="jobs/clp.yaml", **more)


def test_jobs_of_ours_and_of_others():
    notes = {"facscale.job": "clp", "facscale.spec": "ab", "facscale.who": "ann@lab", "facscale.workers": "2-8"}
    ours = parse_status(details(JobStatus.FAILED, message="exit\ncode 1", metadata=notes, start_time=1_764_000_000_000))
    assert (ours.name, ours.state, ours.reason, ours.digest, ours.submitter, ours.workers) == (
        "clp",
        JobState.FAILED,
        "exit code 1",
        "ab",
        "ann@lab",
        "2-8",
    )
    assert ours.submitted_at is not None
    assert ours.submitted_at.year == 2025
    other = parse_status(details(JobStatus.RUNNING, message="Job is currently running."))
    assert (other.name, other.state, other.reason, other.command) == ("clp-1", JobState.RUNNING, "", "jobs/clp.yaml")


def test_a_log_comes_in_whole_lines(monkeypatch):
    monkeypatch.setattr(ray_client, "POLL_S", 0.05)
    gate = asyncio.Event()

    async def chunks():
        yield "one\ntw"
        await gate.wait()
        yield "o\nthree"

    log = DashboardLogStream(chunks())
    assert log.read_new() == ["one"]
    assert log.read_new() == []
    gate.set()
    found = []
    while not log._loop.is_closed():
        found += log.read_new()
    assert found == ["two", "three"]
    assert log.read_new() == []


def test_a_log_that_is_left_in_the_middle(monkeypatch):
    monkeypatch.setattr(ray_client, "POLL_S", 0.01)

    async def chunks():
        await asyncio.sleep(3600)
        yield "never"

    log = DashboardLogStream(chunks())
    assert log.read_new() == []
    log.close()
    assert log.read_new() == []
