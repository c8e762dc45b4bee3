"""Training on a real Ray cluster: a killed worker changes nothing, and a run goes on where it was."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import load
from torch import multiprocessing

from faces import write_face_data_set
from facscale import methods
from facscale.methods import DataFacts
from facscale.train.checkpoint import EXPORT
from facscale.train.local import LocalTrainer
from integration import local_worker
from ports import free_port
from tasks import build_task
from watching import Watcher, watched

pytestmark = pytest.mark.slow("each training starts and ends on Ray", minutes=5)

TINY = {
    "method": {"name": "clp", "depth": 18, "width": 4, "hidden": 8, "embedding": 8, "length": 3, "queue_size": 32},
    "train": {"batch_size": 8, "epochs": 12, "log_every": 1, "checkpoint_every": 10, "probe_every": 0},
    "cluster": {"workers": 2, "gpus_per_worker": 0, "cpus_per_worker": 1},
    "deepspeed": {"zero_optimization": {"stage": 1}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 clips an epoch: 60 steps of 8 in 12 epochs."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    write_face_data_set(str(folder), [12] * 40, au=(1, 12), row_group_mb=0.2)
    return str(folder)


def a_task(data, storage, changes=None):
    fixed = {"data": {"unlabelled": data, "image_size": 32, "threads": 1}, "cluster": {"storage": str(storage)}}
    return build_task(TINY, fixed, changes or {})


def run(data, storage, *, name, kill_at=None, changes=None):
    """The watcher, and the bytes of the export."""
    return watched(a_task(data, storage, changes), name=name, kill_at=kill_at)


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, data, tmp_path_factory):
    storage = tmp_path_factory.mktemp("undisturbed")
    watcher, exported = run(data, storage, name="run")
    return watcher, load(exported), storage


def test_a_run_takes_the_steps_of_its_plan(undisturbed):
    watcher, weights, _ = undisturbed
    assert watcher.steps == list(range(1, 61))
    assert int(weights["queue.filled"]) == 32
    assert all(value.isfinite().all() for value in weights.values())


def test_a_worker_killed_in_mid_epoch_changes_nothing(undisturbed, ray_cluster, data, tmp_path):
    watcher, exported = run(data, tmp_path, name="run", kill_at=43)
    weights = load(exported)
    assert watcher.killed is not None
    assert watcher.notes.count("started") == 1
    assert "resumed" in watcher.notes
    for name, value in undisturbed[1].items():
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=0, msg=name)


def test_processes_without_ray_learn_the_same(undisturbed, data, tmp_path):
    (tmp_path / "tasks").write_bytes(pickle.dumps({"run": a_task(data, tmp_path)}))
    multiprocessing.spawn(local_worker.fit, (2, free_port(), tmp_path / "tasks"), nprocs=2)
    weights = load((tmp_path / "run" / EXPORT).read_bytes())
    for name, value in undisturbed[1].items():
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=0, msg=name)


def test_a_finished_run_is_not_trained_again(undisturbed, ray_cluster, data):
    _, weights, storage = undisturbed
    watcher, again = run(data, storage, name="run")
    assert watcher.steps == []
    assert all(torch.equal(value, weights[name]) for name, value in load(again).items())


def test_nothing_to_train_exports_the_initial_method(ray_cluster, data, tmp_path):
    watcher, exported = run(data, tmp_path, name="random", changes={"train": {"epochs": 0}})
    weights = load(exported)
    torch.manual_seed(0)
    job_seed_zero = methods.find_method("clp")
    config = job_seed_zero.Config(**{key: value for key, value in TINY["method"].items() if key != "name"})
    expected = job_seed_zero(config, DataFacts()).state_dict()
    assert watcher.steps == []
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_a_run_goes_on_with_another_number_of_workers(ray_cluster, data, tmp_path):
    first, _ = run(data, tmp_path, name="elastic", changes={"train": {"epochs": 1}})
    (tmp_path / "elastic" / EXPORT).unlink()  # what says that it is finished
    changes = {"train": {"epochs": 2}, "cluster": {"workers": 1}}
    second, exported = run(data, tmp_path, name="elastic", changes=changes)
    assert first.steps + second.steps == list(range(1, 11))
    assert int(load(exported)["queue.filled"]) == 32


@pytest.mark.usefixtures("plugins")
def test_a_gan_inside_a_method_trains_without_a_change(data, tmp_path):
    """Here; test_elsewhere.py trains it on Ray with two workers."""
    task = a_task(data, tmp_path, {"method": {"name": "tiny-gan"}, "train": {"epochs": 1, "accumulate": 2}})
    watcher = Watcher()
    exported = LocalTrainer().fit(task, name="gan", receive=watcher.receive).export
    assert watcher.steps == list(range(1, 6))
    assert {name.split(".")[0] for name in load(exported)} == {"encoder", "generator", "discriminator"}
