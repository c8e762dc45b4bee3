"""The private parts of Ray that facscale uses still exist, and behave as we need."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import ray
from ray.job_submission import JobSubmissionClient

from facscale.compat import IncompatibleVersionError
from facscale.compat import ray as compat


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ray._private.services", "find_gcs_addresses"),
        ("ray._private.utils", "read_ray_address"),
        ("ray._private.authentication.authentication_token_setup", "maybe_enable_token_auth_if_token_available"),
        ("ray.dashboard.modules.dashboard_sdk", "SubmissionClient"),
    ],
)
def test_a_private_name_exists(module, name):
    assert callable(compat.load(module, name))


def test_a_missing_name_is_an_error_that_names_the_versions():
    with pytest.raises(
        IncompatibleVersionError, match=rf"ray {ray.__version__} has no ray.util.nothing.*install ray {compat.TRIED}"
    ):
        compat.load("ray.util", "nothing")
    with pytest.raises(IncompatibleVersionError, match="has no ray._gone.name"):
        compat.load("ray._gone", "name")


def test_running_clusters_are_addresses():
    assert all(":" in address for address in compat.find_running_clusters())


def test_the_parent_cluster_is_that_of_a_raylet_above_us(tmp_path):
    assert compat.find_parent_cluster() == ""
    raylet = tmp_path / "raylet"
    raylet.symlink_to(sys.executable)
    code = "import subprocess, sys; subprocess.run([sys.argv[1], '-c', sys.argv[2]], check=True)"
    child = "from facscale.compat.ray import find_parent_cluster; print(find_parent_cluster())"
    command = [raylet, "-c", code, sys.executable, child, "--gcs-address=10.0.0.1:6379"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "10.0.0.1:6379"


def test_the_latest_address_is_read_from_rays_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert compat.read_latest_address() == ""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert compat.read_latest_address() == "10.0.0.1:6379"


@pytest.fixture
def dashboard():
    """The address of a server that answers every request with Ray's version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'{{"ray_version": "{ray.__version__}"}}'.encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_job_client_obeys_its_address_and_leaves_the_environment_alone(dashboard, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://other:8265")
    client = compat.create_job_client(dashboard, headers={"Authorization": "Bearer secret"})
    assert isinstance(client, JobSubmissionClient)
    assert client.get_address() == dashboard
    assert os.environ["RAY_ADDRESS"] == os.environ["RAY_API_SERVER_ADDRESS"] == "http://other:8265"


def test_a_handler_of_worker_output_is_added_once_and_changes_what_later_handlers_see():
    output = compat.load("ray._private.ray_logging", "global_worker_stdstream_dispatcher")
    lines = []
    for _ in range(2):
        compat.add_worker_output_handler("test", lambda batch: batch["lines"].pop())
    output.add_handler("test-printer", lambda batch: lines.extend(batch["lines"]))
    try:
        output.emit({"lines": ["a", "b", "c"]})
    finally:
        output.remove_handler("test")
        output.remove_handler("test-printer")
    assert lines == ["a", "b"]


def test_output_of_workers_without_handlers_is_an_error_that_names_the_versions(monkeypatch):
    monkeypatch.setattr("ray._private.ray_logging.global_worker_stdstream_dispatcher", object())
    with pytest.raises(IncompatibleVersionError, match="has no ray._private.ray_logging.*handlers"):
        compat.add_worker_output_handler("test", print)
