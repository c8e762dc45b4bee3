"""Two Ray clusters on one machine, which share Ray's temporary folder: a job on the first never asks the second.

Each head takes some seconds to start, and each job to train: a cluster that is only played would not be noted by Ray.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from faces import write_face_data_set
from facscale.cli.demo import BIN, build_environment, get_ray_credentials, start_ray, stop_ray
from ports import free_run

pytestmark = pytest.mark.nightly("two heads start, and jobs train; tests/unit/cluster chooses the cluster", minutes=4)
STEPS = 300
JOB = """\
method: {{name: clp, depth: 18, width: 8, hidden: 8, embedding: 8, length: 3, queue_size: 32}}
data: {{unlabelled: {folder}/faces, labelled: {folder}/faces, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: {epochs}, log_every: 1, checkpoint_every: 100, probe_every: 5, probe_frames: 40}}
cluster: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}
evaluate: {{folds: 2, probe: {{epochs: 1, batch_size: 32}}, rendered_people: 0, pairs: 0}}
track: {{uri: "sqlite:///{folder}/mlflow.db"}}
"""
SWEEP = """\
sweep: {space: {method.queue_size: [16, 32]}, search: random, trials: 1, early_stopping: none, collapsed: 0}
"""
SHARED = Path("/tmp/ray")  # as for every cluster of this machine that is told no other; here Ray notes the current one
PATIENCE = 3  # tries: Ray gives up a head whose parts do not find each other in 30 s, as on a machine that is very busy
OF_RAY_TRAIN = r"PlacementGroupCleaner|placement group was removed|multiple active Ray|latest cluster"


class Head:
    """A cluster in the open, with a token and ports of its own, and the folder of all others."""

    def __init__(self, folder, *, token=None):
        folder.mkdir()
        if token:
            (folder / "ray.token").write_text(token)
        self.folder = folder
        self.variables = build_environment(get_ray_credentials(folder))
        for attempt in range(PATIENCE):
            self.port = free_run(4)  # the dashboard's is followed by those of two helpers
            self.dashboard = self.port + 1
            try:
                start_ray(folder, port=self.port, dashboard=self.dashboard, temp_dir=SHARED)
                break
            except SystemExit:
                if attempt + 1 == PATIENCE:
                    raise

    @property
    def token(self):
        return self.variables["RAY_AUTH_TOKEN"]

    def stop(self):
        stop_ray(self.folder / "ray.pid")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The cluster that the jobs run on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        head = Head(tmp_path_factory.mktemp("clusters") / "first")
        yield head
        head.stop()


@contextmanager
def second_head(first, folder):
    """Another cluster of the same user, which Ray notes as the current one of this machine."""
    head = Head(folder / "second", token=first.token)
    try:
        yield head
    finally:
        head.stop()


@pytest.fixture
def job(tmp_path):
    """Writes a job over 40 clips an epoch: 5 steps of 8."""
    write_face_data_set(str(tmp_path / "faces"), [12] * 40, au=(1, 12), row_group_mb=0.2)

    def write(*, steps, more=""):
        path = tmp_path / "tiny.yaml"
        path.write_text(JOB.format(folder=tmp_path, epochs=steps // 5) + more)
        return path

    return write


def steps(home):
    """Of all trainings that drivers with this home have journalled, in order."""
    (journal,) = home.glob(".cache/facscale/journal/*/journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [record["step"] for record in records if "learning_rate" in (record.get("values") or {})]


@contextmanager
def held(head):
    """The worker that trains on this cluster stands still, so that a busy machine has time to start another cluster."""
    root = psutil.Process(int((head.folder / "ray.pid").read_text()))
    (worker,) = [child for child in root.children(recursive=True) if "RayTrainWorker" in " ".join(child.cmdline())]
    worker.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.resume()


def until(done, *, process, log, limit=1200):
    """Wait for it while the process runs."""
    end = time.monotonic() + limit
    while not done():
        assert process.poll() is None, f"it ended too early: {log.read_text()[-3000:]}"
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.1)


def foreign(text, head):
    """Lines that tell of another cluster, or of what Ray Train does where it does not find its own."""
    return [line for line in text.splitlines() if re.search(rf"{OF_RAY_TRAIN}|:({head.port}|{head.dashboard})\b", line)]


def test_a_second_cluster_in_mid_training_changes_nothing(first, job, tmp_path):
    log = tmp_path / "job.log"
    variables = first.variables | {"RAY_ADDRESS": f"127.0.0.1:{first.port}", "HOME": str(tmp_path)}
    words = [str(BIN / "facscale"), "run", str(job(steps=STEPS))]
    with log.open("w") as out:
        driver = subprocess.Popen(words, stdout=out, stderr=out, env=variables)
    try:
        until(lambda: list(tmp_path.glob(".cache/facscale/journal/*/journal.jsonl")), process=driver, log=log)
        until(lambda: steps(tmp_path), process=driver, log=log)
        with held(first), second_head(first, tmp_path) as second:
            time.sleep(6)  # Ray Train looks for its controller once a second
            assert len(steps(tmp_path)) < STEPS, "it was held too late: give it more steps"
        assert driver.wait(900) == 0, log.read_text()[-3000:]
    finally:
        driver.kill()
        driver.wait()
    text = log.read_text()
    assert steps(tmp_path) == list(range(1, STEPS + 1))
    assert "goes on from" not in text
    assert "resumed" not in text
    assert foreign(text, second) == []


def test_a_sweep_that_is_submitted_beside_a_newer_cluster_runs_on_its_own(first, job, tmp_path):
    """Ray's job supervisor gives the driver the address of the newest cluster. The user's runtime environment stays."""
    path = job(steps=10, more=SWEEP)
    wanted = json.dumps({"env_vars": {"HOME": str(tmp_path), "RAY_ADDRESS": "auto"}})
    with second_head(first, tmp_path) as second:
        address = f"http://127.0.0.1:{first.dashboard}"
        words = [
            "job",
            "submit",
            "--address",
            address,
            "--runtime-env-json",
            wanted,
            "--",
            str(BIN / "facscale"),
            "run",
        ]
        done = subprocess.run(
            [str(BIN / "ray"), *words, str(path)],
            env=first.variables, capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "F1 x 100 on test" in done.stdout
    assert "goes on from" not in done.stdout
    assert foreign(done.stdout, second) == []
    assert list(tmp_path.glob(".cache/facscale/journal/*/journal.jsonl")), "the user's own variable reached the job"
