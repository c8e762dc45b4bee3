"""Two clusters and one MLflow server on Postgres, of which one cluster is cut off at first; then a look in a browser.

For MLflow a cluster is a machine with a journal and a name, so that both train on the Ray that all tests share; test_elsewhere.py
has Rays of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from browser import browser_page, chromium, compared_metric, comparison, keep_screenshot
from conftest import ROOT
from faces import write_face_data_set
from facscale.track.server import ensure_server, stop_server
from ports import free_port

AUS = (1, 12)
METHODS = {
    "clp": "{name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, queue_size: 32}",
    "moco": "{name: moco, depth: 18, width: 4, embedding: 8, queue_size: 32}",
}
JOB = """\
method: {method}
data: {{unlabelled: {folder}/unlabelled, labelled: {folder}/bp4d, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 1, log_every: 1, probe_every: 0}}
cluster: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, storage: {home}/runs}}
evaluate: {{folds: 2, probe: {{epochs: 2, batch_size: 32}}, rendered_people: 0, pairs: 0}}
"""

pytestmark = [
    pytest.mark.slow("two jobs on Ray, MLflow on Postgres, a browser", minutes=3),
    pytest.mark.skipif(chromium() is None, reason="Chromium is missing: apt-get install chromium"),
]


class Cluster:
    """A cluster as MLflow sees it: a name and a home, where the journals of its jobs are."""

    def __init__(self, folder, *, name, method, tracker, ray):
        self.home = folder / name
        self.home.mkdir()
        self.job = self.home / f"{method}.yaml"
        self.job.write_text(JOB.format(method=METHODS[method], folder=folder, home=self.home))
        own = {"HOME": str(self.home), "RAY_ADDRESS": ray, "FACSCALE_CLUSTER": name, "MLFLOW_TRACKING_URI": tracker}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(Path.home() / ".ray" / "auth_token")}
        self.variables = {**os.environ, **own, **token, "PYTHONPATH": str(ROOT / "platform")}

    def facscale(self, *words):
        command = [sys.executable, "-c", "from facscale.cli import main; main()", *map(str, words)]
        done = subprocess.run(
            command, cwd=self.home, env=self.variables, capture_output=True, text=True, check=False, timeout=1800
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    @property
    def spool(self):
        (spool,) = (self.home / ".cache" / "facscale" / "journal").iterdir()
        return spool


@pytest.fixture(scope="module")
def world(tmp_path_factory, postgres, ray_cluster):
    """Cluster a has run CLP with the server in reach, b has run MoCo without it; the server stands again."""
    folder = tmp_path_factory.mktemp("world")
    write_face_data_set(str(folder / "unlabelled"), [12] * 12, row_group_mb=0.2)
    write_face_data_set(str(folder / "bp4d"), [20] * 6, au=AUS, row_group_mb=0.2, name="bp4d")
    port = free_port()
    clusters = {}
    database = postgres.make_database("clusters")
    server = ensure_server(folder / "mlflow", port, store=database)
    try:
        for name, method in (("a", "clp"), ("b", "moco")):
            clusters[name] = Cluster(folder, name=name, method=method, tracker=server.url, ray=ray_cluster)
        said = {"a": clusters["a"].facscale("run", clusters["a"].job)}
        stop_server(folder / "mlflow")
        said["b"] = clusters["b"].facscale("run", clusters["b"].job)
        ensure_server(folder / "mlflow", port, store=database)
        yield {"url": server.url, "said": said, **clusters}
    finally:
        stop_server(folder / "mlflow")


def runs(world):
    client = MlflowClient(world["url"])
    found = client.search_runs([client.get_experiment_by_name("bp4d").experiment_id])
    return {run.data.tags["method"]: run for run in found if "mlflow.parentRunId" not in run.data.tags}


def test_a_cluster_that_was_cut_off_catches_up(world):
    assert "MLflow: http" in world["said"]["a"]
    assert "later: facscale sync" in world["said"]["b"]
    assert set(runs(world)) == {"clp"}
    assert f"everything is at {world['url']}" in world["b"].facscale("sync")
    assert "1 of them delivered before" in world["b"].facscale("sync")
    found = runs(world)
    assert {run.info.run_name for run in found.values()} == {"clp (a)", "moco (b)"}
    assert {run.data.tags["cluster"] for run in found.values()} == {"a", "b"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_the_same_spool_pushed_from_elsewhere_is_the_same_run(world, tmp_path):
    before = runs(world)["clp"]
    shutil.copytree(world["a"].spool, tmp_path / "copy")
    (tmp_path / "copy" / "sent.json").unlink()  # it knows nothing of what was sent
    world["a"].facscale("sync", tmp_path / "copy")
    client, after = MlflowClient(world["url"]), runs(world)["clp"]
    assert len(client.search_runs([after.info.experiment_id])) == 2
    assert after.info.run_id == before.info.run_id
    steps = [point.step for point in client.get_metric_history(after.info.run_id, "loss/tcl")]
    assert len(steps) == len(set(steps)) > 0
    assert len(client.search_model_versions("name = 'clp'")) == 1


def test_the_encoder_of_each_method_is_registered(world):
    world["b"].facscale("sync")
    client = MlflowClient(world["url"])
    for method, run in runs(world).items():
        version = client.get_model_version_by_alias(method, "best-bp4d")
        assert version.run_id == run.info.run_id
        assert float(version.tags["f1/bp4d"]) == pytest.approx(run.data.metrics["f1/mean"])
        assert version.tags["job"] == method


def test_f1_by_au_of_both_stands_side_by_side_in_the_browser(world):
    world["b"].facscale("sync")
    found = runs(world)
    experiment = found["clp"].info.experiment_id
    both = [found["clp"], found["moco"]]
    with browser_page() as page:
        page.goto(comparison(world["url"], experiment=experiment, runs=[run.info.run_id for run in both]))
        for name in ("f1/AU1", "f1/AU12", "f1/mean"):
            shown = [float(cell) for cell in compared_metric(page, name)]
            assert shown == pytest.approx([run.data.metrics[name] for run in both], abs=0.001)
        compared_metric(page, "f1/AU1")
        assert keep_screenshot(page, "compare").stat().st_size > 10_000
        page.goto(f"{world['url']}/#/experiments/{experiment}/runs/{found['clp'].info.run_id}")
        page.get_by_role("columnheader", name="Avg").first.wait_for()  # the table of F1 at the top of the run's page
        keep_screenshot(page, "run")
        page.goto(f"{world['url']}/#/experiments/{experiment}/runs")
        for run in both:
            page.get_by_text(run.info.run_name).first.wait_for()
        keep_screenshot(page, "experiment")
