"""Jobs elsewhere, really run: on a Ray cluster that wants a token, and on one cluster after another, as a RayJob's retry is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from conftest import PLUGINS, ROOT
from faces import write_face_data_set
from facscale.cli import main
from facscale.cli.demo import get_ray_credentials, start_ray, stop_ray
from facscale.cluster.kubernetes import RayTarget, create_client
from facscale.cluster.kubernetes.code_archive import pack_folder
from facscale.cluster.kubernetes.manifest import build_configmap
from facscale.cluster.kubernetes.submission import build_submission
from facscale.compat.ray import create_job_client
from facscale.progress import parse_bar
from ports import free_run

pytestmark = pytest.mark.slow("jobs on a Ray with a token, and on one Ray after another", minutes=4)

JOB = """\
method: {name: tiny-gan}
data: {unlabelled: "${FACSCALE_DATA}/unlabelled", labelled: "${FACSCALE_DATA}/bp4d", image_size: 32, threads: 1}
train: {batch_size: 8, epochs: 1, log_every: 1, checkpoint_every: 3, probe_every: 0}
cluster: {workers: 2, gpus_per_worker: 0, cpus_per_worker: 1}
evaluate: {folds: 2, probe: {epochs: 1, batch_size: 32}, rendered_people: 0, pairs: 0}
"""
CHECKPOINTS = "checkpoint_manager_snapshot.json"  # Ray Train's record of them


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two data sets, and the job that reads them by $FACSCALE_DATA."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_face_data_set(str(folder / "unlabelled"), [12] * 24, row_group_mb=0.2)
    write_face_data_set(str(folder / "bp4d"), [20] * 6, au=(1, 12), row_group_mb=0.2, name="bp4d")
    (folder / "gan.yaml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def lab(data):
    """A Ray cluster behind a token, with facscale but without the package that the job's method comes from."""
    port = free_run(4)  # the dashboard's is followed by those of two helpers
    dashboard = port + 1
    own = {
        "FACSCALE_DATA": str(data),
        "FACSCALE_RUNS": str(data / "runs"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{data / 'lab.db'}",
        "PYTHONPATH": str(ROOT / "platform"),
        "XDG_CACHE_HOME": str(data / "cache"),  # else the job of relative paths would find its journal of another day
    }
    kept = dict(os.environ)
    os.environ.update(own)
    try:
        start_ray(data, port=port, dashboard=dashboard)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    (data / "token").write_text(get_ray_credentials(data)["RAY_AUTH_TOKEN"])
    yield RayTarget("lab", f"http://127.0.0.1:{dashboard}", token_file=str(data / "token"))
    stop_ray(data / "ray.pid")


@pytest.fixture
def facscale(lab, data, plugins, tmp_path, monkeypatch):
    """The command line of somebody who has the clusters file, the package, and an address of another cluster in the environment."""
    lines = f"clusters:\n  lab: {{address: '{lab.address}', token_file: {lab.token_file}}}\n"
    (tmp_path / "clusters.yaml").write_text(lines)
    monkeypatch.setenv("FACSCALE_CLUSTERS", str(tmp_path / "clusters.yaml"))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_a_wrong_token_and_none(facscale, lab, data, tmp_path):
    (tmp_path / "wrong").write_text("0" * 64)
    told = {}
    for name, line in {"wrong": f"token_file: {tmp_path / 'wrong'}", "none": ""}.items():
        (tmp_path / "clusters.yaml").write_text(f"clusters:\n  lab: {{address: '{lab.address}', {line}}}\n")
        done = facscale("submit", data / "gan.yaml", "--ray", "lab", "--detach")
        assert done.exit_code == 2
        told[name] = done.output
    assert f"the token in {tmp_path / 'wrong'} is not the one" in told["wrong"]
    assert "it wants a token" in told["none"]
    assert "0" * 64 not in told["wrong"]


def test_a_job_with_its_code_runs_to_its_end_and_is_known_after(facscale, data):
    done = facscale("submit", data / "gan.yaml", "--ray", "lab", "--working-dir", PLUGINS)
    assert done.exit_code == 0, done.output
    for text in ("2 workers, with the code of", "running", "/3 steps", "F1 x 100 on bp4d", "succeeded"):
        assert text in done.output, done.output
    again = facscale("submit", data / "gan.yaml", "--ray", "lab", "--working-dir", PLUGINS)
    assert again.exit_code == 0
    assert "finished already" in again.output
    assert "F1 x 100 on bp4d" in facscale("logs", "gan").output
    assert "succeeded" in facscale("status", "gan").output
    assert "gan-" in facscale("list").output


def test_relative_paths_of_a_job_lie_in_the_folder_that_is_uploaded_with_it(facscale, tmp_path):
    """Each process of the job runs in its copy, from the check of the spec to the embeddings."""
    code = tmp_path / "code"
    write_face_data_set(str(code / "faces"), [12] * 12, row_group_mb=0.2)
    write_face_data_set(str(code / "coded"), [12] * 6, au=(1, 12), row_group_mb=0.2, name="coded")
    blocks = JOB[JOB.index("train:") :].replace("workers: 2", "workers: 1")
    (code / "near.yaml").write_text(
        "method: {name: simclr, depth: 18, width: 4, embedding: 8}\n"
        f"data: {{unlabelled: faces, labelled: coded, image_size: 32, threads: 1}}\n{blocks}"
    )
    done = facscale("submit", code / "near.yaml", "--ray", "lab", "--working-dir", code)
    assert done.exit_code == 0, done.output
    assert "F1 x 100 on coded" in done.output


def test_a_cancelled_job_is_told_so_and_goes_on_when_it_is_submitted_again(facscale, lab, data):
    words = (
        "train.epochs=4000",
        "name=long",
        "cluster.workers=1",
        "--ray",
        "lab",
        "--working-dir",
        PLUGINS,
        "--detach",
    )
    assert facscale("submit", data / "gan.yaml", *words).exit_code == 0
    step_of_checkpoint(data / "runs", "long-*")
    assert "is on lab already" in facscale("submit", data / "gan.yaml", *words).output
    assert "both would write" in facscale("submit", data / "gan.yaml", "cluster.max_failures=7", *words).output
    done = facscale("cancel", "long")
    assert "stopped; its checkpoints stay" in done.output, done.output
    assert "stopped" in facscale("status", "long").output
    assert facscale("submit", data / "gan.yaml", *words).exit_code == 0
    assert steps_of(lab, "long")
    assert facscale("cancel", "long").exit_code == 0
    client = MlflowClient(f"sqlite:///{data / 'lab.db'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()], "tags.row = 'long'")
    assert run.info.status == "KILLED"


def test_a_zip_from_a_volume_is_unpacked_as_it_is(lab, tmp_path):
    """As a RayJob has it: code.zip lies beside the spec. A single folder in it would be taken away, but for our mark."""
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    (tmp_path / "mine" / "inner" / "__init__.py").write_text("print('code of', __name__)\n")
    (tmp_path / "code.zip").write_bytes(pack_folder(tmp_path / "mine").content)
    token = Path(lab.token_file).read_text()
    client = create_job_client(lab.address, headers={"Authorization": f"Bearer {token}"})
    job = client.submit_job(
        entrypoint=f"{sys.executable} -c 'import inner'", runtime_env={"working_dir": f"file://{tmp_path}/code.zip"}
    )
    for _ in range(1800):
        if client.get_job_status(job).is_terminal():
            break
        time.sleep(0.5)
    assert "code of inner" in client.get_job_logs(job)


def steps_of(place, name):
    """The steps that a job's bars tell, once there is one."""
    cluster = create_client(place)
    (job,) = [one for one in cluster.list_jobs() if one.name == name]
    for _ in range(1800):
        bars = [bar.done for line in cluster.get_log(job.id) if (bar := parse_bar(line))]
        if bars:
            return bars
        assert not cluster.get_job(job.id).state.is_terminal, cluster.get_log(job.id)[-20:]
        time.sleep(0.5)
    raise AssertionError("no bar in a quarter of an hour")


def step_of_checkpoint(runs, pattern, *, at_least=2):
    """The step of the newest checkpoint of a training, once there are some."""
    for _ in range(3600):
        for snapshot in runs.glob(f"{pattern}/{CHECKPOINTS}"):
            kept = json.loads(snapshot.read_text())["checkpoint_results"]
            if len(kept) >= at_least:
                return max(int(result["metrics"]["step"]) for result in kept)
        time.sleep(0.25)
    raise AssertionError(f"no checkpoints of {pattern} in a quarter of an hour")


class Pod:
    """A machine that runs a RayJob's entrypoint on a Ray of its own, and whose disk ends with it."""

    def __init__(self, folder, job, variables):
        self.home = folder
        folder.mkdir()
        self.ray = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets want a short path
        self._log = (folder / "log").open("w")
        command = [sys.executable, "-c", "from facscale.cli import main; main()", "run", job]
        scratch = folder / ("job_of_the_queue_" * 6)  # too long for sockets, as Slurm makes it
        scratch.mkdir()
        own = {"HOME": str(folder), "RAY_TMPDIR": self.ray, "TMPDIR": str(scratch)}
        self.process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, env=variables | own, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip

    def lose(self):
        """All its processes end at once, as those of a node that is taken away."""
        everything = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for process in everything:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self._log.close()

    def steps(self):
        """Of its journal."""
        (journal,) = (self.home / ".cache" / "facscale" / "journal").glob("*/journal.jsonl")
        records = [json.loads(line) for line in journal.read_text().splitlines()]
        return [record["step"] for record in records if "loss/judge" in json.dumps(record) and "step" in record]


def test_a_retry_on_a_new_cluster_goes_on_from_the_checkpoint_and_is_the_same_run(data, plugins, tmp_path):
    """KubeRay retries by running the entrypoint on a new cluster: nothing but the spec and the storage is left."""
    (tmp_path / "job").mkdir()
    job = tmp_path / "job" / "job.yaml"
    words = ["train.epochs=40", "name=retried", "cluster.workers=1"]
    job.write_text(build_configmap(build_submission(data / "gan.yaml", words))["data"]["job.yaml"])
    variables = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "PYTHONPATH"}} | {
        "FACSCALE_DATA": str(data),
        "FACSCALE_RUNS": str(tmp_path / "runs"),
        "FACSCALE_CLUSTER": "munich",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(PLUGINS)]),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # else each of the many checkpoints takes 2 s
    }
    first = Pod(tmp_path / "first", job, variables)
    reached_step = step_of_checkpoint(tmp_path / "runs", "retried-*")
    first.lose()
    second = Pod(tmp_path / "second", job, variables)
    assert second.process.wait(timeout=1800) == 0, Path(second.home / "log").read_text()[-3000:]
    assert min(second.steps()) > reached_step
    assert max(second.steps()) == 120
    client = MlflowClient(variables["MLFLOW_TRACKING_URI"])
    experiments = [one.experiment_id for one in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.row = 'retried'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["cluster"] == "munich"
    history = [point.step for point in client.get_metric_history(run.info.run_id, "loss/judge")]
    assert sorted(history) == sorted(set(history))
