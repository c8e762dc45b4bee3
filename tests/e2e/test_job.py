"""The main job as a user runs it: `ray job submit` on a running cluster with secrets in its environment, MLflow on a real server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import mlflow
import numpy as np
import pytest

from conftest import PLUGINS, ROOT
from faces import write_expression_data_set, write_face_data_set
from facscale.cli.demo import choose_temp_dir, get_ray_credentials, start_ray, stop_ray
from facscale.track import server
from ports import free_port, free_run

pytestmark = pytest.mark.slow("a job on Ray, as a user submits it; test_rows.py has rows of other kinds", minutes=3)

BIN = Path(sys.executable).parent
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"
AUS = (1, 2, 4, 6, 12)
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA-of-the-job-itself",
    "AWS_SECRET_ACCESS_KEY": "storage-hunter2",
    "MLFLOW_TRACKING_PASSWORD": "tracker-hunter2",
    "PGPASSWORD": "database-hunter2",
}
IN_THE_ADDRESS = "address-hunter2"
JOB = """\
#!/usr/bin/env -S facscale run
# A tiny job for the tests.
method: {{name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, queue_size: 32}}
data:
  unlabelled: {folder}/unlabelled
  labelled: {folder}/labelled
  image_size: 32
  threads: 1
train: {{batch_size: 8, epochs: 1, log_every: 1, checkpoint_every: 3, probe_every: 2, probe_frames: 40}}
cluster: {{workers: 2, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}
deepspeed: {{zero_optimization: {{stage: 1}}}}
evaluate:
  folds: 2
  expressions: [{folder}/moods]
  probe: {{epochs: 2, batch_size: 32}}
  rendered_people: 3
  baselines:
    random encoder: {{train: {{epochs: 0}}}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster with a dashboard, an MLflow server, two data sets and a job file, all on ports of their own."""
    folder = tmp_path_factory.mktemp("world")
    write_face_data_set(str(folder / "unlabelled"), [12] * 24, row_group_mb=0.2)
    write_face_data_set(str(folder / "labelled"), [20] * 9, au=AUS, row_group_mb=0.2, name="labelled")
    write_expression_data_set(str(folder / "moods"))
    job = folder / "tiny.yaml"
    job.write_text(JOB.format(folder=folder))
    job.chmod(0o755)
    port = free_run(4)  # the dashboard's is followed by those of two helpers
    dashboard = port + 1
    tracker = server.ensure_server(folder / "mlflow", free_port())
    variables = SECRETS | {
        "MLFLOW_TRACKING_URI": tracker.url.replace("http://", f"http://anna:{IN_THE_ADDRESS}@"),
        "MLFLOW_TRACKING_USERNAME": "anna", "HOME": str(folder),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        start_ray(folder, port=port, dashboard=dashboard)
    yield {
        "folder": folder,
        "session": choose_temp_dir(folder),
        "job": job,
        "address": f"http://127.0.0.1:{dashboard}",
        "mlflow": tracker.url,
        "token": get_ray_credentials(folder),
    }
    server.stop_server(folder / "mlflow")
    stop_ray(folder / "ray.pid")


def submit(world, *words):
    variables = {"PATH": PATH, "PYTHONPATH": f"{ROOT / 'platform'}:{PLUGINS}"}
    return call(world, "submit", "--runtime-env-json", json.dumps({"env_vars": variables}), *words)


def call(world, action, *words):
    """`ray job ACTION`."""
    command = [BIN / "ray", "job", action, "--address", world["address"], *words]
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env=os.environ | {"PATH": PATH} | world["token"],
    )


@pytest.fixture(scope="module")
def submitted(world):
    return submit(world, "--submission-id", "tiny", "--", world["job"])


@pytest.fixture(scope="module")
def client(world):
    return mlflow.MlflowClient(world["mlflow"])


def runs(client, **tags):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    where = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return client.search_runs(experiments, where)


def test_ray_job_submit_literally(submitted):
    assert submitted.returncode == 0, submitted.stdout[-4000:] + submitted.stderr[-4000:]
    assert "F1 x 100 on labelled" in submitted.stdout
    assert "AU12" in submitted.stdout
    assert "random encoder" in submitted.stdout
    notes = " ".join(submitted.stdout.split())
    assert "linear probe on the frozen encoder: tiny, random encoder" in notes
    assert "Intensities, 0 to 5, on labelled" in submitted.stdout
    assert "Accuracy x 100 of expressions on moods, 12 test faces" in submitted.stdout


def test_the_secrets_of_a_job_are_written_nowhere(submitted, world):
    token = world["token"]["RAY_AUTH_TOKEN"]
    told = {"ray job submit": submitted.stdout + submitted.stderr}
    for words in (["list"], ["logs", "tiny"]):
        done = call(world, *words)
        told[f"ray job {words[0]}"] = done.stdout + done.stderr
    for path in ("api/jobs/", "api/v0/tasks"):
        request = Request(f"{world['address']}/{path}", headers={"Authorization": f"Bearer {token}"})
        told[path] = urlopen(request, timeout=30).read().decode()
    assert all("tiny" in told[place] for place in ("ray job list", "ray job logs", "api/jobs/"))
    files = [path for top in ("folder", "session") for path in world[top].rglob("*") if path.is_file()]
    written = {str(path): path.read_bytes() for path in files if path.name != "ray.token"}
    assert any("mlflow.db" in name for name in written)
    assert any(name.endswith("journal.jsonl") for name in written)
    assert any(name.endswith("card.json") for name in written)
    assert any("session_" in name and name.endswith(".log") for name in written)
    told = {place: text.encode() for place, text in told.items()} | written
    leaks = [
        f"{secret} in {place}"
        for place, text in told.items()
        for secret in (*SECRETS.values(), IN_THE_ADDRESS, token)
        if secret.encode() in text
    ]
    assert not leaks


def test_no_other_user_reads_the_database_of_the_tracker(world):
    assert stat.S_IMODE((world["folder"] / "mlflow/mlflow.db").stat().st_mode) == 0o600


def test_one_run_with_everything_in_it(submitted, client):
    (run,) = runs(client, row="tiny")
    assert run.info.status == "FINISHED"
    assert run.data.tags["method"] == "clp"
    assert {"cluster", "data", "git.commit", "facscale.key"} <= run.data.tags.keys()
    assert run.data.params["method.queue_size"] == "32"
    assert run.data.params["train.batch_size"] == "8"
    assert run.data.params["protocol"] == run.data.tags["protocol"] == "linear-probe"
    assert "intensity/icc/mean" in run.data.metrics
    assert {"f1/mean", "f1/AU12", "fold0/f1/AU12", "fold1/f1/mean", "online/effective_rank"} <= run.data.metrics.keys()
    assert {"effective_rank", "encoder/au_f1", "encoder/pose_r2"} <= run.data.metrics.keys()
    assert {"seconds_per_step", "peak_memory_gb"} <= run.data.metrics.keys()
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss/tcl")] == [1, 2, 3]
    kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"method.safetensors", "f1_labelled.csv", "summary.csv", "figures"} <= kept
    assert {"predictions_labelled.parquet", "comparison_labelled.csv"} <= kept
    figures = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/f1_labelled.png", "figures/losses.png", "figures/contact_sheet.png"} <= figures
    assert {"figures/timeline_labelled.png", "figures/together_predicted_labelled.png"} <= figures
    assert {"expression/moods/accuracy", "expression/moods/mean_class_accuracy"} <= run.data.metrics.keys()
    assert {"expressions_moods.csv", "confusion_moods.csv"} <= kept
    assert "figures/confusion_moods.png" in figures
    assert {data.dataset.name for data in run.inputs.dataset_inputs} == {"test", "labelled", "moods"}


def test_the_baseline_is_nested(submitted, client):
    (main,), (baseline,) = runs(client, row="tiny"), runs(client, row="random encoder")
    assert baseline.data.tags["mlflow.parentRunId"] == main.info.run_id
    assert "f1/mean" in baseline.data.metrics


def test_a_run_is_judged_again_to_the_same_digits(submitted, client, world):
    (run,) = runs(client, row="tiny")
    card = client.download_artifacts(run.info.run_id, "card.json")
    again = submit(world, "--", "facscale", "verify", card)
    assert again.returncode == 0, again.stdout[-4000:]
    assert "labelled: every digit holds" in again.stdout


@pytest.mark.filterwarnings("ignore:.*Any type hint")
def test_encoder_and_detector_load_from_mlflow(submitted, client, world, monkeypatch):
    (run,) = runs(client, row="tiny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world["mlflow"])
    models = mlflow.search_logged_models(
        experiment_ids=[run.info.experiment_id],
        filter_string=f"source_run_id = '{run.info.run_id}'",
        output_format="list",
    )
    by_name = {model.name: mlflow.pyfunc.load_model(model.model_uri) for model in models}
    assert by_name.keys() == {"encoder", "detector"}
    features = by_name["encoder"].predict(np.full((2, 3, 32, 32), 0.5, np.float32))
    assert features.shape == (2, 32)
    assert {f"AU{au:02d}" for au in AUS} <= set(by_name["detector"].metadata.signature.outputs.input_names())
    registered = {version.name for version in client.search_model_versions(f"run_id = '{run.info.run_id}'")}
    assert registered == {"clp", "facscale-labelled-clp"}


def test_submitted_again_it_is_the_same_run_and_trains_nothing(submitted, world, client):
    again = submit(world, "--working-dir", prepare(world), "--", "./tiny.yaml")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert len(runs(client, row="tiny")) == 1
    assert "/3 steps" in submitted.stdout
    assert "/3 steps" not in again.stdout
    assert "known truth" not in again.stdout
    assert "F1 x 100 on labelled" in again.stdout


def prepare(world):
    """A working directory with nothing but the job: what `--working-dir` uploads, run bit included."""
    folder = world["folder"] / "jobs_only"
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(world["job"].read_text())
    (folder / "tiny.yaml").chmod(0o755)
    return folder


def test_a_wrong_key_ends_the_job_with_one_line(world):
    done = submit(world, "--", world["job"], "train.epoch=3")
    assert done.returncode != 0
    assert 'unknown key "train.epoch" (did you mean "epochs"?)' in done.stdout
    assert "Traceback" not in done.stdout.split("error:")[1]
