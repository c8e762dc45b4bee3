"""Training on a real Ray cluster: a killed worker changes nothing, and a run goes on where it was."""

from __future__ import annotations

import os
import signal
import threading

import psutil
import pytest
import torch
from safetensors.torch import load

from faces import lengths_data_set
from facscale import methods
from facscale.methods import DataFacts, export
from facscale.spec import Document, merge
from facscale.train.launch import fit
from facscale.train.mailbox import Reader
from facscale.train.worker import Task

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
    lengths_data_set(str(folder), [12] * 40, au=(1, 12), row_group_mb=0.2)
    return str(folder)


def a_task(data, storage, reader, changes=None):
    fixed = {"data": {"unlabelled": data, "image_size": 32, "threads": 1}, "cluster": {"storage": str(storage)}}
    document = Document({}, {})
    for part in (TINY, fixed, changes or {}):
        document = merge(document, Document(part, {}))
    job, _, config = methods.configure(document)
    return Task(job, config, DataFacts(), mailbox=reader.mailbox)


class Watcher:
    """Remembers the records, and kills a worker with -9 when a step is reached for the first time."""

    def __init__(self, kill_at=None):
        self.kill_at, self.killed, self.steps, self.notes = kill_at, None, [], []
        self.metrics, self.pictures = set(), []
        self.seen = threading.Event()

    def receive(self, kind, **record):
        if kind == "progress":
            self.notes.append(record["note"])
        if kind == "pictures":
            self.pictures.append((record["step"], {name: column.shape for name, column in record["columns"].items()}))
        if kind == "metrics":
            self.metrics |= record["values"].keys()
        if kind == "metrics" and "learning_rate" in record["values"]:
            self.steps.append(record["step"])
            if self.kill_at and self.killed is None and record["step"] >= self.kill_at:
                workers = [
                    p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])
                ]
                ours = [p for p in workers if os.getpid() in [parent.pid for parent in p.parents()]]
                self.killed = ours[-1].pid
                os.kill(self.killed, signal.SIGKILL)


def run(data, storage, *, name, kill_at=None, changes=None):
    """The watcher, and the bytes of the export."""
    watcher = Watcher(kill_at)
    reader = Reader(watcher.receive, every=0.05)
    try:
        return watcher, fit(a_task(data, storage, reader, changes), name=name)
    finally:
        reader.close()


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, data, tmp_path_factory):
    watcher, exported = run(data, tmp_path_factory.mktemp("undisturbed"), name="run")
    return watcher, load(exported)


def test_a_run_takes_the_steps_of_its_plan(undisturbed):
    watcher, weights = undisturbed
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


def test_a_finished_run_is_not_trained_again(undisturbed, ray_cluster, data, tmp_path):
    first, weights = run(data, tmp_path, name="run", changes={"train": {"epochs": 0.2}})
    second, again = run(data, tmp_path, name="run", changes={"train": {"epochs": 0.2}})
    assert first.steps == [1]
    assert second.steps == []
    assert weights == again


def test_nothing_to_train_exports_the_initial_method(ray_cluster, data, tmp_path):
    watcher, exported = run(data, tmp_path, name="random", changes={"train": {"epochs": 0}})
    weights = load(exported)
    torch.manual_seed(0)
    job_seed_zero = methods.find("clp")
    config = job_seed_zero.Config(**{key: value for key, value in TINY["method"].items() if key != "name"})
    expected = job_seed_zero(config, DataFacts()).state_dict()
    assert watcher.steps == []
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_a_run_goes_on_with_another_number_of_workers(ray_cluster, data, tmp_path):
    from facscale.train.launch import trained

    watcher = Watcher()
    reader = Reader(watcher.receive, every=0.05)
    try:
        trained(a_task(data, tmp_path, reader, {"train": {"epochs": 1}}), name="elastic")
        weights = load(trained(a_task(data, tmp_path, reader, {"cluster": {"workers": 1}}), name="elastic"))
    finally:
        reader.close()
    assert watcher.steps == list(range(1, 61))
    assert int(weights["queue.filled"]) == 32


@pytest.mark.usefixtures("plugins")
def test_a_gan_inside_a_method_trains_without_a_change(ray_cluster, data, tmp_path):
    changes = {"method": {"name": "tiny-gan"}, "train": {"epochs": 1, "accumulate": 2}}
    watcher, exported = run(data, tmp_path, name="gan", changes=changes)
    assert watcher.steps == list(range(1, 6))
    assert {name.split(".")[0] for name in load(exported)} == {"encoder", "generator", "discriminator"}


@pytest.mark.parametrize(
    "method",
    [
        {"name": "tcae", "patience": 1},  # listens to its validation, and shows pictures
        {"name": "simsiam", "depth": 18, "width": 4, "projection": 8, "bottleneck": 4},  # two groups of parameters
    ],
    ids=lambda method: method["name"],
)
def test_a_method_is_validated_and_exports_an_encoder(ray_cluster, data, tmp_path, method):
    """Two workers, 32 people to learn from (4 steps an epoch), 4 to watch; synchronised BatchNorm, ZeRO 1."""
    changes = {
        "method": method,
        "data": {"validation": 0.1, "test": 0.1},
        "train": {
            "epochs": 2, "checkpoint_every": 4, "validate_every": 4, "validation_batches": 1, "sync_batchnorm": True,
            "optimizer": {"name": "sgd", "lr": 0.01},
        },
    }  # fmt: skip
    watcher, exported = run(data, tmp_path, name=method["name"], changes=changes)
    assert watcher.steps == list(range(1, 9))
    assert "validation/total" in watcher.metrics
    loaded = export.load(exported)
    features = loaded.encoder(torch.rand(3, 3, 32, 32))
    assert features.shape == (3, loaded.encoder.dim)
    assert features.isfinite().all()
    shown = {step for step, columns in watcher.pictures if columns}
    assert shown == ({4, 8} if method["name"] == "tcae" else set())
