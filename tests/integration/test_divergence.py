"""Trainings that cannot succeed end at once, with an error that says why, and leave their last good checkpoint."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load
from torch import multiprocessing

from faces import write_face_data_set
from facscale.data import DataError
from facscale.job.run import run_job
from facscale.spec import Document, merge, read_spec, yaml_io
from facscale.sweep import run_sweep
from facscale.train.checkpoint import EXPORT, STATE
from facscale.train.checkpoint_record import list_stored, read_record
from facscale.train.errors import DivergedError, TrainError
from facscale.train.events import CheckpointPassedOver, NonFiniteStepsCounted, StepProgress
from facscale.train.local import LocalTrainer
from facscale.train.ray.launch import RayTrainer
from integration import local_worker
from ports import free_port
from prepared import prepare_job
from tasks import build_task

pytestmark = [pytest.mark.slow("trains, some of it on Ray", minutes=4), pytest.mark.usefixtures("plugins")]

TINY = {
    "method": {"name": "tiny-unstable"},
    "train": {"batch_size": 8, "epochs": 8, "log_every": 4, "checkpoint_every": 10, "probe_every": 0},
    "cluster": {"workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 1},
}
FOR_EVER = tuple(range(23, 60))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 frames an epoch: 40 steps of 8 in 8 epochs."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    write_face_data_set(str(folder), [12] * 40, row_group_mb=0.2)
    return str(folder)


@pytest.fixture
def make_task(data, tmp_path):
    def make(**changes):
        fixed = {"data": {"unlabelled": data, "image_size": 32, "threads": 1}, "cluster": {"storage": str(tmp_path)}}
        return build_task(TINY, fixed, changes)

    return make


def zero(stage):
    return {"zero_optimization": {"stage": stage}}


def read_local_checkpoint(folder):
    """Number of steps and tensors of the latest checkpoint in the folder of a training."""
    latest, _ = read_record(str(folder))[-1]
    state = torch.load(folder / latest / STATE, weights_only=True)
    return state["step"], state["method"]


@pytest.mark.parametrize("part", ["loss", "gradient"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_it_ends_names_step_and_loss_and_keeps_the_last_good_checkpoint(make_task, tmp_path, stage, part):
    task = make_task(method={"broken": FOR_EVER, "part": part}, deepspeed=zero(stage))
    with pytest.raises(DivergedError) as error:
        LocalTrainer().fit(task, name="run")
    assert "from step 23 on" in str(error.value)
    assert ("loss pull is" in str(error.value)) is (part == "loss")
    assert "the checkpoint of step 20 is kept" in str(error.value)
    assert "train.optimizer.lr (0.001)" in str(error.value)
    step, weights = read_local_checkpoint(tmp_path / "run")
    assert step == 20
    assert all(value.isfinite().all() for value in weights.values())
    assert not (tmp_path / "run" / EXPORT).exists()


@pytest.mark.parametrize("part", ["loss", "gradient"])
@pytest.mark.parametrize("stage", [0, 1])
def test_single_steps_that_are_not_finite_are_counted_and_harm_nothing(make_task, stage, part):
    events = []
    task = make_task(method={"broken": (5, 6, 19), "part": part}, deepspeed=zero(stage))
    exported = LocalTrainer().fit(task, name="run", receive=events.append).export
    counts = [(event.step, event.count) for event in events if isinstance(event, NonFiniteStepsCounted)]
    assert counts == [(8, 2), (20, 1)]
    assert all(value.isfinite().all() for value in load(exported).values())


def test_lost_weights_are_found_before_a_checkpoint_is_written(make_task, tmp_path):
    """At step 19 of 20 there is no time for five steps in a row."""
    task = make_task(method={"broken": (19,), "part": "weights"}, train={"log_every": 1000})
    expected = r"after step 20, encoder.* not finite; its losses calm, pull are not finite before"
    with pytest.raises(DivergedError, match=expected):
        LocalTrainer().fit(task, name="run")
    assert read_local_checkpoint(tmp_path / "run")[0] == 10


@pytest.mark.parametrize("changes", [{"norm": 8}, {"memory": 1 << 20}])
def test_what_cannot_get_better_says_what_to_change(make_task, changes):
    if "norm" in changes:
        task = make_task(method={"batchnorm": True}, train={"batch_size": 8, "accumulate": 8})
        expected = r"BatchNorm needs more than one value for each channel, and a worker has 1 sample at a time"
    else:
        task, expected = make_task(method=changes), r"this host's memory is too small: lower train\.batch_size \(8\)"
    with pytest.raises(TrainError, match=expected):
        LocalTrainer().fit(task, name="run")


def test_all_workers_end_when_one_has_a_loss_that_is_not_finite(make_task, tmp_path):
    task = make_task(method={"broken": FOR_EVER, "worker": 1}, deepspeed=zero(1))
    (tmp_path / "tasks").write_bytes(pickle.dumps({"run": task}))
    multiprocessing.spawn(local_worker.fail, (2, free_port(), tmp_path / "tasks", tmp_path), nprocs=2)
    messages = [(tmp_path / f"error-{rank}").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "from step 23 on, for 6 steps, its loss pull is not finite" in messages[0]


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        ({"method": {"broken": FOR_EVER}}, DivergedError, r"^run: the training diverged: from step 23 on"),
        ({"method": {"memory": 1 << 20}}, TrainError, r"^run: worker \d: this host's memory is too small"),
        ({"train": {"batch_size": 9}}, DataError, r"^a batch of 9 samples cannot be shared by 2 workers"),
    ],
)
def test_ray_does_not_try_again(ray_cluster, make_task, changes, kind, expected):
    """Once there were eight restarts, up to 340 s; the other worker, which waits in a collective, ends too."""
    events, began = [], time.monotonic()
    task = make_task(cluster={"workers": 2}, deepspeed=zero(1), **changes)
    with pytest.raises(kind, match=expected) as error:
        RayTrainer().fit(task, name="run", receive=events.append)
    assert "restart" not in str(error.value)
    assert [event.note for event in events if isinstance(event, StepProgress)].count("started") <= 1
    assert time.monotonic() - began < 120


JOB = """
name: {name}
method: {{name: tiny-unstable, broken: {broken}}}
data: {{unlabelled: {folder}/faces, labelled: ["{folder}/coded"], image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 3, log_every: 1, checkpoint_every: 5, probe_every: 5, probe_frames: 40}}
cluster: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, storage: "{storage}"}}
deepspeed: {{zero_optimization: {{stage: 1}}}}
evaluate: {{folds: 3, probe: {{epochs: 2, batch_size: 32}}, rendered_people: 0, map_frames: 0, attention_faces: 0}}
track: {{uri: "sqlite:///{storage}/mlflow.db"}}
"""
ENDLESS = {"method": {"broken": []}, "train": {"epochs": 10_000_000, "log_every": 1000, "probe_every": 0}}
SWEEP = """
sweep: {space: {method.worker: [0, 5]}, search: grid, early_stopping: none, collapsed: 0, concurrent: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 frames, so that 3 epochs are 15 steps of 8; and 9 labelled people."""
    folder = tmp_path_factory.mktemp("data")
    write_face_data_set(str(folder / "faces"), [12] * 40, row_group_mb=0.2)
    write_face_data_set(str(folder / "coded"), [20] * 9, au=(1, 2, 12), row_group_mb=0.2, name="coded")
    return folder


def write_job(folder, storage, text, **values):
    path = storage / "job.yaml"
    path.write_text(text.format(folder=folder, storage=storage, **values))
    return read_spec(path)


def test_of_a_diverged_job_nothing_is_evaluated_or_registered(ray_cluster, folder, tmp_path, capfd):
    """The job's second row would train for days: it is aborted."""
    good = write_job(folder, tmp_path, JOB, name="good", broken=[])
    assert run_job(prepare_job(good, name="job"), trainer=LocalTrainer()) == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    best = client.get_model_version_by_alias("tiny-unstable", "best-coded")
    bad = write_job(folder, tmp_path, JOB, name="bad", broken=list(range(8, 99)))
    bad = merge(bad, Document({"evaluate": {"baselines": {"endless": ENDLESS}}}, {}))
    with pytest.raises(DivergedError, match="from step 8 on, for 5 steps, its loss pull is not finite"):
        run_job(prepare_job(bad, name="job"))
    assert "so the job ends: no other training begins, and those that run are aborted" in capfd.readouterr().err
    assert client.get_model_version_by_alias("tiny-unstable", "best-coded").version == best.version
    assert len(client.search_model_versions("name = 'tiny-unstable'")) == 1
    (experiment,) = [item for item in client.search_experiments() if item.name == "coded"]
    runs = {
        run.data.tags["job"]: run for run in client.search_runs([experiment.experiment_id], "tags.row != 'endless'")
    }
    (endless,) = client.search_runs([experiment.experiment_id], "tags.row = 'endless'")
    assert endless.info.status == "KILLED"
    assert runs["good"].info.status == "FINISHED"
    assert runs["bad"].info.status == "FAILED"
    assert "f1/mean" in runs["good"].data.metrics
    assert "f1/mean" not in runs["bad"].data.metrics


def test_a_trial_that_diverges_is_marked_and_another_one_is_best(ray_cluster, folder, tmp_path):
    document = write_job(folder, tmp_path, JOB, name="search", broken=list(range(8, 99)))
    document = merge(document, Document(yaml_io.load(SWEEP), {}))
    with pytest.raises(DivergedError):  # the job's own row diverges too, after the search
        run_sweep(prepare_job(document, name="job"), trainer=LocalTrainer())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [item for item in client.search_experiments() if item.name == "coded"]
    runs = client.search_runs([experiment.experiment_id], "tags.row = 'trial'")
    assert sorted(run.data.tags["state"] for run in runs) == ["diverged", "done"]
    assert "worker: 5" in (tmp_path / next(tmp_path.glob("sweep-*")).name / "best.yaml").read_text()


def test_a_damaged_checkpoint_on_ray_is_passed_over_without_a_restart(ray_cluster, make_task, tmp_path):
    task = make_task(train={"epochs": 4, "keep_checkpoints": 3}, cluster={"max_failures": 0})
    first = RayTrainer().fit(task, name="run")
    (tmp_path / "run" / EXPORT).unlink()  # what says that it is finished
    stored = list_stored(str(tmp_path / "run"))
    assert [item.step for item in stored] == [20, 10]
    with (Path(stored[0].url) / STATE).open("r+b") as file:
        file.seek(2000)
        file.write(b"altered")
    events = []
    second = RayTrainer().fit(task, name="run", receive=events.append)
    weights = [load(artifact.export) for artifact in (first, second)]  # the order of the files' metadata is not fixed
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)
    (reason,) = {event.reason for event in events if isinstance(event, CheckpointPassedOver)}
    assert f"{stored[0].url}/{STATE} is damaged" in reason
    assert next(event.step for event in events if isinstance(event, StepProgress)) == 10
