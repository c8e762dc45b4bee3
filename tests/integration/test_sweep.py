"""Sweeps on a real Ray cluster: found, told, ended early, killed and continued."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from conftest import ROOT
from faces import write_face_data_set
from facscale.job.variants import expand_variants
from facscale.spec import read_spec
from facscale.sweep import run_sweep
from facscale.sweep.search import SweepError
from facscale.train.local import LocalTrainer
from facscale.train.ray.launch import RayTrainer
from prepared import prepare_job
from waiting import wait_for

pytestmark = pytest.mark.slow("each trial trains on Ray", minutes=6)

JOB = """
method: {{name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, queue_size: 32}}
data: {{unlabelled: {folder}/faces, labelled: ["{folder}/coded"], image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 2, log_every: 1, checkpoint_every: 3, probe_every: 3, probe_frames: 40}}
cluster: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, storage: "{storage}"}}
evaluate: {{folds: 3, probe: {{epochs: 2, batch_size: 32}}, rendered_people: 0}}
track: {{uri: "sqlite:///{storage}/mlflow.db"}}
sweep:
  space:
    method.margin: {{low: 0.01, high: 0.5, log: true}}
    method.queue_size: [16, 32]
  search: random
  trials: 3
  early_stopping: none
  collapsed: 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 clips an epoch, so that 2 epochs are 6 steps of 8; and 9 labelled people."""
    folder = tmp_path_factory.mktemp("data")
    write_face_data_set(str(folder / "faces"), [12] * 24, row_group_mb=0.2)
    write_face_data_set(str(folder / "coded"), [20] * 9, au=(1, 2, 12), row_group_mb=0.2, name="coded")
    return folder


@pytest.fixture
def sweep(ray_cluster, folder, tmp_path):
    """Run the job with some changes; what MLflow knows of it afterwards. Its trials train on Ray, its rows here."""

    def run(*words, trainer=None):
        path = tmp_path / "job.yaml"
        path.write_text(JOB.format(folder=folder, storage=tmp_path))
        assert run_sweep(prepare_job(read_spec(path, words), name="tiny"), trainer=trainer or LocalTrainer()) == 0
        return told(tmp_path)

    return run


def told(storage):
    """MLflow's runs: the job's own, and by row what is nested in it."""
    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "coded"]
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(nested) == len(runs) - 1, "one level"
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    return (
        parent,
        [run for run in nested if run.data.tags["row"] == "trial"],
        {run.info.run_name: run for run in nested},
        files,
    )


def test_the_best_trial_becomes_a_row_and_a_spec_of_its_own(sweep, tmp_path):
    parent, trials, nested, files = sweep("sweep.trials=2", "sweep.concurrent=1")
    assert {"sweep.html", "sweep.csv", "best.yaml"} <= files
    assert list(tmp_path.glob("sweep-*/sweep.html")), "beside the sweep's other files, as the job prints"
    pages = [
        page.read_text() for page in (*tmp_path.glob("sweep-*/sweep.html"), *tmp_path.glob("artifacts/**/sweep.html"))
    ]
    assert len(pages) == 2
    for page in pages:
        assert "as written" in page
        assert "There is none yet" not in page, "the job has evaluated the best trial beside the spec as written"
    assert len(trials) == 2
    reports = [json.loads(line) for file in tmp_path.glob("sweep-*/*/result.json") for line in file.open()]
    assert len({report["trial_id"] for report in reports}) == 2
    assert len({report["pid"] for report in reports}) == 1, "the second trial took over the first one's process"
    objectives = {run.data.params["method.margin"]: run.data.metrics["objective"] for run in trials}
    assert len(objectives) == 2, "random draws differ"
    assert all(0.01 <= float(margin) <= 0.5 for margin in objectives)
    for run in trials:
        history = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_metric_history(
            run.info.run_id, "loss/total"
        )
        assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]
        assert run.data.metrics["online/probe/f1"] == run.data.metrics["objective"]
        assert run.data.tags["state"] == "done"
    assert "f1/mean" in parent.data.metrics
    assert "f1/mean" in nested["best of sweep"].data.metrics
    (written,) = tmp_path.glob("sweep-*/best.yaml")
    best, *others = expand_variants(read_spec(written), name="again")
    assert objectives[str(best.config.margin)] == max(objectives.values())
    assert best.job.sweep is None
    assert not others
    assert best.job.name == "tiny-best"
    trained = list(tmp_path.glob("best-of-sweep-*/checkpoint_manager_snapshot.json"))
    assert len(trained) == 2, "the row took the best trial's weights"


@pytest.mark.parametrize("workers", [1, 2])  # in the trial's own process, and with Ray Train
def test_a_collapsed_trial_ends_at_its_first_look(sweep, tmp_path, workers):
    words = ("sweep.collapsed=1000", "sweep.objective=online/effective_rank", "train.epochs=400", "sweep.trials=1")
    with pytest.raises(SweepError, match="collapsed"):
        sweep(*words, f"cluster.workers={workers}")
    _, trials, _, _ = told(tmp_path)
    assert {run.data.tags["state"] for run in trials} == {"collapsed"}
    assert all(run.data.metrics["online/effective_rank"] < 1000 for run in trials)
    assert not list(tmp_path.glob("best-of-sweep-*/method.safetensors")), "none was trained to its end"


@pytest.mark.nightly("three trials on Ray, one after the other", minutes=4)
def test_asha_stops_what_is_worse_than_the_better_third(sweep):
    words = ("sweep.search=grid", "sweep.early_stopping=asha", "train.epochs=4", "sweep.concurrent=1")
    # The validation loss grows with the weight, so that the first trial is always the best.
    words += ("sweep.objective=validation/total", "sweep.goal=min", "data.validation=0.2", "train.validate_every=3")
    _, trials, _, _ = sweep(
        *words, "sweep.space={method.margin: null, method.queue_size: null, method.cir_weight: [0.01, 10, 100]}"
    )
    states = {float(run.data.params["method.cir_weight"]): run.data.tags["state"] for run in trials}
    assert states.pop(0.01) == "done"
    assert len(states) == 2
    assert all(state.startswith("stopped at") for state in states.values())


@pytest.mark.nightly("trials of 600 steps, so that they meet on the way", minutes=6)
def test_population_based_training_goes_on_from_another_trials_weights(sweep, tmp_path):
    words = ("sweep.search=pbt", "sweep.trials=2", "sweep.keep=0.5", "sweep.grace=0.2")
    # The validation loss grows with the weight, so that it is always the same trial that is replaced.
    words += ("sweep.objective=validation/total", "sweep.goal=min", "data.validation=0.2", "train.validate_every=40")
    words += ("train.epochs=200", "train.probe_every=0", "train.checkpoint_every=40")  # long enough to meet on the way
    _, trials, nested, _ = sweep(
        *words, "sweep.space={method.margin: null, method.queue_size: null, method.cir_weight: {low: 0.01, high: 1}}"
    )
    assert len(trials) == 2
    assert "best of sweep" in nested
    borrowed = [told for told in tmp_path.glob("best-of-sweep-*/told.json") if told.parent.name.count("-") > 4]
    assert borrowed, "a trial was replaced"
    first = min(_steps(told.parent)[0] for told in borrowed)
    assert first > 3, "it did not begin anew"


@pytest.mark.nightly("two trials on Ray, then three folds of two rows", minutes=5)
def test_what_learns_from_labels_is_searched_in_the_first_fold(sweep, tmp_path):
    words = (
        "method={name: supervised, depth: 18, width: 4}", "data.validation=0.2", "train.validate_every=3", "train.batch_size=4",
        "train.probe_every=0", "sweep.objective=validation/f1", "sweep.search=grid",
        "sweep.space={method.margin: null, method.queue_size: null, train.optimizer.lr: [0.001, 0.01]}",
    )  # fmt: skip
    _, trials, nested, _ = sweep(*words, trainer=RayTrainer())  # which trains folds side by side
    assert len(trials) == 2
    assert all(run.data.metrics["validation/f1"] == run.data.metrics["objective"] for run in trials)
    assert {"best of sweep coded fold0", "best of sweep coded fold2"} <= set(nested)
    again = [place for place in tmp_path.glob("best-of-sweep-coded-fold0-*") if place.name.count("-") == 5]
    assert len(again) == 1
    assert not (again[0] / "checkpoint_manager_snapshot.json").exists(), "fold 0 of the best row is the trial itself"


def test_a_killed_sweep_goes_on_where_it_was(ray_cluster, folder, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(folder=folder, storage=tmp_path))
    words = [
        "sweep.concurrent=1",
        "train.epochs=8",
        "train.checkpoint_every=2",
        "train.keep_checkpoints=20",
        "sweep.trials=2",
    ]
    first = started(job, words, address=ray_cluster)
    try:
        seen = wait_for(
            lambda: [place for place in trainings(tmp_path) if len(_steps(place)) > 3 and unfinished(place)], limit=1200
        )
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = _steps(seen[0])
    done = {place: place.stat().st_mtime for place in tmp_path.glob("best-of-sweep-*/method.safetensors")}
    replaced = forge_pickles(next(tmp_path.glob("sweep-*")), harm=tmp_path / "harm")
    assert "tuner.pkl" in {file.name for file in replaced}
    assert run_sweep(prepare_job(read_spec(job, words), name="job"), trainer=LocalTrainer()) == 0
    assert not (tmp_path / "harm").exists(), "nothing in the folder of a sweep is unpickled"
    assert len(trainings(tmp_path)) == 2, "no trial began anew"
    assert {place: place.stat().st_mtime for place in done} == done
    reports = json.loads((seen[0] / "checkpoint_manager_snapshot.json").read_text())["current_report_index"]
    assert reports <= 24 / 2 + 1, f"it trained steps again, beyond those since its last checkpoint ({before})"
    _, trials, _, _ = told(tmp_path)
    assert [run.data.tags["state"] for run in trials] == ["done", "done"]


class Harmful:
    """What a pickle runs when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def forge_pickles(sweep, *, harm):
    """Put a pickle that makes the folder `harm` wherever Ray Tune keeps one in the folder of a sweep."""
    content = pickle.dumps(Harmful(harm))
    files = [
        file for file in sweep.rglob("*") if file.suffix == ".pkl" or file.name.startswith(("basic-variant", "exp"))
    ]
    files += [file.with_name("_dict_checkpoint.pkl") for file in sweep.rglob("pointer.json")]
    files += [file.with_name("error.pkl") for file in sweep.rglob("params.json")]
    for file in files:
        file.write_bytes(content)
    return files


def started(job, words, *, address):
    """`facscale run` on the test's cluster, in a process group of its own."""
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, "-m", "facscale.cli", "run", str(job), *words]
    log = Path(job).with_suffix(".log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def trainings(storage):
    """The folders of all trials' trainings."""
    return [told.parent for told in storage.glob("best-of-sweep-*/checkpoint_manager_snapshot.json")]


def unfinished(place):
    return not (place / "method.safetensors").exists()


def _steps(place):
    """At which its checkpoints were written, as far as they are kept."""
    try:
        snapshot = json.loads((place / "checkpoint_manager_snapshot.json").read_text())
    except (OSError, ValueError):  # just being written
        return []
    return [result["metrics"]["step"] for result in snapshot["checkpoint_results"]]
