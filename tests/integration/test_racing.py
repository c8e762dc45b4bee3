"""Several senders in several processes and one server on Postgres: every run arrives once and complete."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
from mlflow import MlflowClient
from mlflow.models import Model

import racing
from facscale.track import Tracker
from facscale.track.server import ensure_server, stop_server

NOWHERE = "http://127.0.0.1:9"  # the port of "discard": nobody answers
SENDERS = 3

pytestmark = pytest.mark.slow("senders in processes of their own, MLflow on Postgres")


@pytest.fixture(scope="module")
def url(tmp_path_factory, postgres):
    """The URL of a server on Postgres: the database decides a race, and SQLite admits one writer at a time."""
    folder = tmp_path_factory.mktemp("server")
    yield ensure_server(folder, 0, store=postgres.make_database("racing")).url
    stop_server(folder)


def test_all_senders_agree_on_the_run_of_a_key(url):
    experiments = [f"race {number}" for number in range(8)] + ["race"] * 16  # creating an experiment is a race as well
    jobs = [(url, experiment, f"key {number}") for number, experiment in enumerate(experiments)]
    client = MlflowClient(url)
    for job, run_ids in zip(jobs, racing.race(racing.attach, jobs, count=SENDERS), strict=True):
        assert len(set(run_ids)) == 1, (job, run_ids)
        where = client.get_experiment_by_name(job[1]).experiment_id
        runs = client.search_runs([where], f'tags.`facscale.key` = "{job[2]}"')
        assert [run.info.run_id for run in runs] == run_ids[:1]


def make_spools(folder, *, number):
    """Return copies of the spool of a job that could not reach its tracker."""
    model = folder / f"model {number}"
    model.mkdir()
    Model(metadata={"weights": f"weights {number}"}, flavors={"python_function": {"loader_module": "facscale"}}).save(
        str(model / "MLmodel")
    )
    tracker = Tracker(NOWHERE, "pushed", key=f"job {number}", name="clp", spool=folder / f"spool {number}")
    tracker.log_params({f"block.{block}": block for block in range(30)})
    fold = tracker.start_child(f"job {number}/fold0", "fold0")
    for step in range(20):
        tracker.log_metrics({"loss": step / 2, "std": 1.0}, step)
        fold.log_metrics({"f1/AU12": step / 20}, step)
    tracker.log_dataset("bp4d", url="s3://faces/bp4d", fingerprint=f"{number:064}")
    tracker.log_text("kept\n", "notes/kept.txt")
    tracker.log_model(model)
    tracker.register_model("clp", scores={"bp4d": number / 10})
    fold.close()
    assert not tracker.close(wait=30)
    copies = [folder / f"copy {copy} of {number}" for copy in range(SENDERS)]
    for copy in copies:
        shutil.copytree(folder / f"spool {number}", copy)
    return copies


def test_copies_of_a_spool_sent_at_once_are_one_run_with_everything(tmp_path, url):
    jobs = [(url, make_spools(tmp_path, number=number)) for number in range(4)]
    assert racing.race(racing.deliver, jobs, count=SENDERS) == [[True] * SENDERS] * len(jobs)
    assert not list(tmp_path.rglob("refused.jsonl"))
    client = MlflowClient(url)
    where = client.get_experiment_by_name("pushed").experiment_id
    runs = {run.data.tags["facscale.key"]: run for run in client.search_runs([where])}
    assert len(client.search_runs([where])) == len(runs) == 2 * len(jobs)
    for number in range(len(jobs)):
        run, fold = runs[f"job {number}"], runs[f"job {number}/fold0"]
        assert fold.data.tags["mlflow.parentRunId"] == run.info.run_id
        assert run.info.status == fold.info.status == "FINISHED"
        assert {f"block.{block}" for block in range(30)} <= run.data.params.keys()
        for entity, name in ((run, "loss"), (run, "std"), (fold, "f1/AU12")):
            steps = Counter(point.step for point in client.get_metric_history(entity.info.run_id, name))
            assert steps == Counter(range(20))
        assert len(run.inputs.dataset_inputs) == 1
        assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == ["notes/kept.txt"]
        assert len(client.search_logged_models([where], f"source_run_id = '{run.info.run_id}'")) == 1
        assert len(client.search_model_versions(f"run_id = '{run.info.run_id}'")) == 1
    best = client.get_model_version_by_alias("clp", "best-bp4d")
    assert best.run_id == runs[f"job {len(jobs) - 1}"].info.run_id
