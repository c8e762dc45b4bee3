"""The right to write, asked of a real MLflow server: one that lets everybody in, and one with accounts."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from mlflow import MlflowClient

from facscale.doctor import Patient
from facscale.doctor.checks.tracker import writes
from facscale.doctor.examination import Check, findings
from facscale.track.permission import SCRATCH, NotAllowedError, prove_write
from facscale.track.server import QUIET, ensure_server, stop

READY_S = 180
ADMIN, READER = ("admin", "a-password-of-twelve"), ("reader", "another-password-1")


@pytest.fixture
def nobody(monkeypatch):
    """Who has no credentials."""
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    yield ensure_server(folder, 0)
    stop(folder)


@pytest.mark.usefixtures("nobody")
def test_whoever_may_write_leaves_nothing(open_server):
    assert prove_write(open_server.url) > 0
    assert prove_write(open_server.url) > 0  # the experiment that was deleted is used again
    api = MlflowClient(open_server.url)
    assert [one.name for one in api.search_experiments() if one.name.startswith(SCRATCH)] == []
    assert api.search_runs([one.experiment_id for one in api.search_experiments()]) == []


@pytest.mark.usefixtures("nobody")
def test_a_server_that_is_not_there_is_a_problem_with_a_mend(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    (one,) = findings(Check("MLflow", 1, "ray", 60, writes), Patient())
    assert one.state == "problem"
    assert "does not answer" in one.what
    assert one.mend.startswith("check the address")


def test_without_a_server_there_is_a_warning(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (one,) = writes(Patient())
    assert one.state == "warning"
    assert "MLFLOW_TRACKING_URI" in one.mend


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The address of a server with accounts: an administrator, and a reader who may write nowhere."""
    pytest.importorskip("flask_wtf", reason="MLflow's accounts need it: pip install 'mlflow[auth]'")
    folder = tmp_path_factory.mktemp("guarded")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\nadmin_username = {ADMIN[0]}\n"
        f"admin_password = {ADMIN[1]}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    own = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-test-alone"}
    own["MLFLOW_AUTH_ADMIN_PASSWORD"] = ADMIN[1]
    words = ["server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], env={**os.environ, **QUIET, **own}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, folder / "log")
        make_reader(url)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def wait_for(url, process, log):
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(log.read_text()[-2000:])


def make_reader(url):
    """An account, and an experiment of the administrator's under the name that the doctor would take."""
    basic = base64.b64encode(":".join(ADMIN).encode()).decode()
    body = json.dumps({"username": READER[0], "password": READER[1]}).encode()
    headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/api/2.0/mlflow/users/create", body, headers), timeout=20
    ).close()


@pytest.fixture
def known_as(monkeypatch):
    def become(name, password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return become


@pytest.mark.usefixtures("nobody")
class TestAccounts:
    def test_who_says_nothing_is_told_what_to_say(self, guarded):
        with pytest.raises(NotAllowedError, match="asks who we are.*MLFLOW_TRACKING_USERNAME"):
            prove_write(guarded)

    def test_a_wrong_password(self, guarded, known_as):
        known_as(ADMIN[0], "not-that-password")
        with pytest.raises(NotAllowedError, match="refuses our credentials; MLFLOW_TRACKING_USERNAME is set"):
            prove_write(guarded)

    def test_who_may_write(self, guarded, known_as):
        known_as(*ADMIN)
        assert prove_write(guarded) > 0

    def test_who_may_only_read(self, guarded, known_as, monkeypatch):
        monkeypatch.setattr("facscale.track.permission._user", lambda: "shared")
        known_as(*ADMIN)
        MlflowClient(guarded).create_experiment(f"{SCRATCH}-shared")
        known_as(*READER)
        with pytest.raises(NotAllowedError, match="knows us, and does not let us make a run"):
            prove_write(guarded)
