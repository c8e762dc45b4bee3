"""Every job of ours, tiny: trained, ended on the way, gone on with, exported, judged.

They train in this process, for Ray Train takes 15 s to start and end; the loop is the same. The job with two sources of
data also trains on Ray with two workers, of which one is killed, at night; test_train.py does that with CLP, and compares
the weights.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import multiprocessing
from torch.optim.swa_utils import update_bn

from conftest import ROOT
from crossval import cross_validate
from faces import write_face_data_set
from facscale import methods
from facscale.data import Dataset, augment
from facscale.evaluate.protocol import LabelledDataset
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.job.datasets import JobData
from facscale.job.plan import build_plan, make_task
from facscale.job.variants import expand_variants
from facscale.methods import Method
from facscale.nn import ResNet
from facscale.nn.fan import FAN
from facscale.spec import read_spec
from facscale.spec.models import Probe
from facscale.train.online_probe import read_spread_frames
from facscale.train.setup import make_method
from facscale.train.trainer import count_samples_per_epoch
from integration import local_worker
from ports import free_port
from tiny import get_tiny_options
from watching import interrupted, watched

pytestmark = pytest.mark.slow("28 trainings", minutes=5)

JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
STAGES = [(ROOT / "jobs" / "aunet.yaml", "labels")]  # trained as jobs are, for they are never a job of their own
STEPS, BATCH, VALIDATE = 12, 8, 5
RAY_STEPS = 60  # Ray registers a checkpoint some steps after it was written, and the kill comes after that
KILL_AT = 7  # two checkpoints before it, and steps after it
TRAINED = {"batch_size": BATCH, "precision": "float32", "log_every": 1, "checkpoint_every": 3}
TINY = (
    "data.image_size=32", "data.threads=1", "train.probe_frames=40", "train.validation_batches=1",
    "cluster.workers=2", "cluster.gpus_per_worker=0", "cluster.cpus_per_worker=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 people with one clip of 20 labelled frames each: all data sets that our jobs name."""
    folder = tmp_path_factory.mktemp("data")
    write_face_data_set(str(folder / "faces"), [20] * 40, au=(1, 12), flow=True, margin=0.3, row_group_mb=0.2)
    for name in ("bp4d", "bp4d_flow", "disfa_flow", "voxceleb2", "synthetic", "synthetic_bp4d", "synthetic_bp4d_flow"):
        (folder / name).symlink_to(folder / "faces")
    write_face_data_set(str(folder / "disfa"), [20] * 12, au=(12, 4, 1), margin=0.3, row_group_mb=0.2)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files that stand for the public ones, by the argument of a method; as a spec's inputs."""
    folder = tmp_path_factory.mktemp("weights")
    resnet, fan = ResNet(18, width=4), FAN(stacks=3, width=8, levels=2)
    files = {
        "pretrained": {**resnet.state_dict(), "fc.weight": torch.zeros(9, resnet.dim), "fc.bias": torch.zeros(9)},
        "fan": fan.state_dict(),
    }
    for name, state in files.items():
        torch.save(state, folder / name)
    return {
        name: f"{{url: {folder / name}, sha256: {hashlib.sha256((folder / name).read_bytes()).hexdigest()}}}"
        for name in files
    }


def a_task(path, stage, *, weights, storage, steps=STEPS):
    """The job at `path` (or a stage of it) as its user would submit it, but tiny, and of `steps` steps; in the first fold."""
    document = read_spec(path)
    words = [*TINY, f"cluster.storage={storage}", *(f"train.{key}={value}" for key, value in TRAINED.items())]
    for name, of_stage in document.data.get("stages", {}).items():
        words += [f"stages.{name}.train.{key}={value}" for key, value in TRAINED.items()]
        if "name" in of_stage.get("method", {}):
            options = get_tiny_options(methods.find_method(of_stage["method"]["name"]).Config)
            words += [f"stages.{name}.method.{key}={value}" for key, value in options.items() if key != "latent"]
    kind = methods.find_method(document.data["method"]["name"])
    words += [f"method.{key}={value}" for key, value in get_tiny_options(kind.Config).items()]
    words += [
        f"inputs.{name}={weights[name]}" for name, source in document.data.get("inputs", {}).items() if "url" in source
    ]
    if document.data["train"].get("validate_every"):
        words.append(f"train.validate_every={VALIDATE}")
    row, *_ = expand_variants(read_spec(path, words), name="row")
    sets = [LabelledDataset.open(url, evaluate=row.job.evaluate) for url in row.job.data.urls("labelled")]
    plan, exports, tasks = build_plan([row], JobData(tuple(sets), identities=40)), {}, {}
    for node in plan.collect_upstream([plan.variants[0].representative]):
        tasks[node.title] = make_task(node, exports, identities=40)
        exports[node.id] = export.save_export(make_method(tasks[node.title]))
    first = plan.trainings[plan.variants[0].representative].title
    task = tasks[f"{first} {stage}" if stage else first]
    epochs = (steps - 0.5) * BATCH / count_samples_per_epoch(task)
    train = task.job.train.model_copy(update={"epochs": epochs})
    return replace(task, job=task.job.model_copy(update={"train": train}))


@pytest.mark.parametrize(
    ("path", "stage"),
    [*((path, "") for path in JOBS), *STAGES],
    ids=lambda part: getattr(part, "stem", part),
)
def test_a_job_trains_is_interrupted_goes_on_and_is_judged(data, weights, tmp_path, monkeypatch, path, stage):
    monkeypatch.setenv("FACSCALE_DATA", str(data))
    task = a_task(path, stage, weights=weights, storage=tmp_path)
    watcher, exported = interrupted(task, name=path.stem, stop_at=KILL_AT)
    survived(watcher, task, exported, data=data)


def test_two_workers_hold_the_same_method(data, weights, tmp_path, monkeypatch):
    """One job of each method: what workers exchange leaves all of them the same weights."""
    monkeypatch.setenv("FACSCALE_DATA", str(data))
    tasks = {path.stem: a_task(path, "", weights=weights, storage=tmp_path) for path in first_of_each_method()}
    (tmp_path / "tasks").write_bytes(pickle.dumps({name: shortened(task) for name, task in tasks.items()}))
    multiprocessing.spawn(local_worker.record, (2, free_port(), tmp_path / "tasks", tmp_path), nprocs=2)
    for name in tasks:
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2))
        for key, value in first.items():
            if not key.endswith(("running_mean", "running_var")):  # each worker's own, unless train.sync_batchnorm
                torch.testing.assert_close(second[key], value, atol=1e-7, rtol=0, msg=f"{name}: {key}")


def first_of_each_method():
    by_method = {}
    for path in JOBS:
        by_method.setdefault(read_spec(path).data["method"]["name"], path)
    return list(by_method.values())


def shortened(task):
    """The task with a quarter of its steps."""
    train = task.job.train.model_copy(update={"epochs": task.job.train.epochs / 4})
    return replace(task, job=task.job.model_copy(update={"train": train}))


@pytest.mark.nightly("60 steps on Ray", minutes=2)
def test_a_job_on_ray_survives_the_loss_of_a_worker_and_is_judged(ray_cluster, data, weights, tmp_path, monkeypatch):
    name = "rtatl"  # two sources of data
    monkeypatch.setenv("FACSCALE_DATA", str(data))
    task = a_task(ROOT / "jobs" / f"{name}.yaml", "", weights=weights, storage=tmp_path, steps=RAY_STEPS)
    watcher, exported = watched(task, name=name, kill_at=KILL_AT)
    survived(watcher, task, exported, data=data, steps=RAY_STEPS)


def survived(watcher, task, exported, *, data, steps=STEPS):
    """It was ended, went on from a checkpoint, took every step, and is worth judging."""
    assert watcher.killed is not None
    assert [note for note in watcher.notes if note in {"started", "resumed"}] == ["started", "resumed"]
    assert set(watcher.steps) == set(range(1, steps + 1))
    told(watcher, task, steps=steps)
    method = export.load_export(exported)
    if method.has_image_encoder:
        judged(method, data=str(data / "faces"), job=task.job)


def told(watcher, task, *, steps):
    """What its spec asks for: the online probe, and the losses and pictures of people who are only watched."""
    train, kind = task.job.train, methods.find_method(task.job.method.name)
    looks = {*range(VALIDATE, steps, VALIDATE), steps} if train.validate_every else set()
    assert bool(train.probe_every) == any(name.startswith("online/") for name in watcher.metrics)
    assert bool(looks and task.job.data.validation) == ("validation/total" in watcher.metrics)
    assert {step for step, columns in watcher.pictures if columns} == (
        looks if kind.visualize != Method.visualize else set()
    )


def judged(method, *, data, job):
    """Its features are numbers that a probe learns from; a method that learned from labels tells them itself."""
    pixels, au, identity = read_spread_frames(Dataset(data), count=50)
    still = torch.from_numpy(augment.eval_params(job.data.augment)).expand(len(pixels), -1)
    images = augment.apply(torch.from_numpy(pixels), still, size=job.data.image_size)
    update_bn([images], method.encoder)  # twelve steps leave a quarter of each running variance at its initial 1
    with torch.no_grad():
        features = method.encoder(images)
    assert features.shape == (len(pixels), method.encoder.dim)
    assert features.isfinite().all()
    assert features.std(0).any()
    if method.learns_from_labels(method.config):
        aus = len(method.facts.aus)
        batch = make_random_batch(method.eval_views(method.config), size=job.data.image_size, aus=aus, samples=5)
        logits = method.predict(batch)
        assert logits.shape == (5, aus)
        assert logits.isfinite().all()
        return
    labelled = LabelledDataset.open(data, evaluate=job.evaluate)
    table = cross_validate(
        features.numpy(), au=au, identity=identity, aus=labelled.aus, split=labelled.split, name=job.method.name,
        probe=Probe(epochs=2, batch_size=16),
    )  # fmt: skip
    assert all(math.isfinite(value) for value in table.rows[0].to_metrics().values())
