"""A real cluster with token authentication: strangers are refused. tests/e2e has a job in one, whose secrets are written nowhere."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest

from conftest import ROOT
from faces import write_face_data_set
from facscale.cli.demo import BIN, choose_temp_dir, get_ray_credentials, start_ray, stop_ray
from ports import free_run

pytestmark = pytest.mark.slow("a Ray with a token starts, and nodes that it refuses take their time", minutes=3)

WRONG = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
JOB = """\
method: {{name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, queue_size: 32}}
data: {{unlabelled: {folder}/faces, labelled: {folder}/faces, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 0.5, log_every: 1, probe_every: 0}}
cluster: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}
evaluate: {{folds: 2, probe: {{epochs: 1, batch_size: 32}}, rendered_people: 0}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster with a token, and a tiny job; the folder of both."""
    folder = tmp_path_factory.mktemp("world")
    write_face_data_set(str(folder / "faces"), [12] * 9, au=(1, 2, 4, 6, 12), row_group_mb=0.2, name="faces")
    (folder / "tiny.yaml").write_text(JOB.format(folder=folder))
    port = free_run(4)  # the dashboard's is followed by those of two helpers
    dashboard = port + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        start_ray(folder, port=port, dashboard=dashboard)
        yield {
            "folder": folder, "session": choose_temp_dir(folder), "gcs": f"127.0.0.1:{port}", "token": get_ray_credentials(folder),
            "address": f"http://127.0.0.1:{dashboard}", "job": folder / "tiny.yaml",
        }  # fmt: skip
        stop_ray(folder / "ray.pid")


def test_all_servers_of_the_cluster_listen_on_loopback_alone(world):
    head = psutil.Process(int((world["folder"] / "ray.pid").read_text()))
    processes = [head, *head.children(recursive=True)]
    listening = {
        (process.name(), connection.laddr.ip)
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {name for name, _ in listening} >= {"gcs_server", "raylet"}
    assert {address.removeprefix("::ffff:") for _, address in listening} <= {"127.0.0.1", "::1"}


def test_no_other_user_enters_the_folders_of_the_cluster(world):
    """Ray makes its session writable for everybody: what lies there is the code of the next job, and its token."""
    assert stat.S_IMODE(world["session"].parent.stat().st_mode) == 0o700
    for name in ("ray.token", "ray.pid"):
        assert stat.S_IMODE((world["folder"] / name).stat().st_mode) & 0o022 == 0


def call(world, *words, login, **variables):
    """A program, as somebody with this login and none of the cluster's variables calls it."""
    cleared = {name: value for name, value in os.environ.items() if "RAY_AUTH" not in name}
    command = [str(BIN / words[0]) if words[0] == "ray" else str(words[0]), *map(str, words[1:])]
    environment = cleared | {"HOME": str(world["folder"] / "stranger")} | login | variables
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800, env=environment
    )  # fmt: skip


STRANGERS = pytest.mark.parametrize("login", [{"RAY_AUTH_MODE": "token"}, WRONG, {}], ids=["none", "wrong", "unaware"])


@STRANGERS
def test_strangers_list_and_submit_nothing(world, login):
    mark = world["folder"] / "stranger-was-here"
    for words in (["list"], ["submit", "--", "touch", mark]):
        done = call(world, "ray", "job", words[0], "--address", world["address"], *words[1:], login=login)
        assert done.returncode != 0
        assert "token" in (done.stdout + done.stderr).lower()
    assert not mark.exists()


def ask(url, token=""):
    """The status of an answer, and its text."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["api/jobs/", "nodes?view=summary", "api/v0/nodes", "api/v0/tasks"])
def test_the_dashboard_answers_nobody_without_the_token(world, path):
    url = f"{world['address']}/{path}"
    assert ask(url)[0] == 401
    assert ask(url, "0" * 64)[0] in (401, 403)
    assert ask(url, world["token"]["RAY_AUTH_TOKEN"])[0] == 200


@STRANGERS
def test_a_node_of_strangers_does_not_join(world, login):
    done = call(
        world, "ray", "start", "--address", world["gcs"], "--num-cpus", "1", login=login, RAY_gcs_rpc_server_reconnect_timeout_s="5"
    )  # fmt: skip
    nodes = json.loads(ask(f"{world['address']}/nodes?view=summary", world["token"]["RAY_AUTH_TOKEN"])[1])
    assert done.returncode != 0
    assert len(nodes["data"]["summary"]) == 1


@STRANGERS
def test_a_driver_of_strangers_is_told_in_one_line(world, login):
    done = call(
        world, sys.executable, "-m", "facscale.cli", "run", world["job"], login=login, RAY_ADDRESS=world["gcs"]
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"the Ray cluster at {world['gcs']} lets nobody in without its token: set RAY_AUTH_MODE=token" in line
