"""Every job of ours, tiny: trained by two workers, of which one is killed on the way, exported, and judged."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch

from conftest import ROOT
from faces import lengths_data_set
from facscale import methods
from facscale.data import Dataset, augment
from facscale.evaluate import cross_validate
from facscale.job.cost import random_batch
from facscale.job.labelled import Labelled
from facscale.job.run import fetch
from facscale.methods import DataFacts, Method, export
from facscale.nn import ResNet
from facscale.spec import read
from facscale.spec.models import Probe
from facscale.train.launch import samples_per_epoch
from facscale.train.probe import labelled_frames
from facscale.train.worker import Task
from tiny import small
from watching import watched

JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
STEPS, BATCH, VALIDATE = 24, 8, 10
KILL_AT = 7  # two checkpoints before it, and many steps after it
TINY = (
    "data.image_size=32", "data.threads=1",
    f"train.batch_size={BATCH}", "train.precision=float32", "train.log_every=1", "train.checkpoint_every=3",
    "train.probe_frames=40", "train.validation_batches=1",
    "cluster.workers=2", "cluster.gpus_per_worker=0", "cluster.cpus_per_worker=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 people with one clip of 20 labelled frames each."""
    url = str(tmp_path_factory.mktemp("data") / "faces")
    lengths_data_set(url, [20] * 40, au=(1, 12), flow=True, row_group_mb=0.2)
    return url


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A ResNet's weights with torchvision's names, as a spec's input."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    source = ResNet(18, width=4)
    torch.save({**source.state_dict(), "fc.weight": torch.zeros(9, source.dim), "fc.bias": torch.zeros(9)}, path)
    return f"{{url: {path}, sha256: {hashlib.sha256(path.read_bytes()).hexdigest()}}}"


def a_task(path, *, data, checkpoint, storage):
    """The job at `path` as its user would submit it, but tiny, and of STEPS steps; a labelled one in its first fold."""
    here = [*TINY, f"data.unlabelled={data}", f"data.labelled={data}", f"cluster.storage={storage}"]
    document = read(path, here)
    kind = methods.find(document.data["method"]["name"])
    here += [f"method.{key}={value}" for key, value in small(kind.Config).items()]
    here += [
        f"inputs.{name}={checkpoint}" for name, source in document.data.get("inputs", {}).items() if "url" in source
    ]
    if document.data["train"].get("validate_every"):
        here.append(f"train.validate_every={VALIDATE}")
    whole = configured(read(path, here))
    epochs = (STEPS - 0.5) * BATCH / samples_per_epoch(whole)
    return configured(read(path, [*here, f"train.epochs={epochs}"]))


def configured(document):
    job, kind, config = methods.configure(document)
    inputs = {name: fetch(source) for name, source in job.inputs.items()}
    if not kind.learns_from_labels(config):
        return Task(job, config, DataFacts(identities=40), inputs)
    labelled = Labelled.open(job.data.labelled, evaluate=job.evaluate)
    fold = labelled.split.folds[0]
    return Task(job, config, labelled.facts(fold), inputs, subjects=fold.train)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_survives_the_loss_of_a_worker_and_its_encoder_is_judged(ray_cluster, data, checkpoint, tmp_path, path):
    task = a_task(path, data=data, checkpoint=checkpoint, storage=tmp_path)
    watcher, exported = watched(task, name=path.stem, kill_at=KILL_AT)
    survived(watcher)
    told(watcher, task)
    judged(export.load(exported), data=data, job=task.job)


def survived(watcher):
    """It went on from a checkpoint, and took every step."""
    assert watcher.killed is not None
    assert [note for note in watcher.notes if note in {"started", "resumed"}] == ["started", "resumed"]
    assert set(watcher.steps) == set(range(1, STEPS + 1))


def told(watcher, task):
    """What its spec asks for: the online probe, and the losses and pictures of people who are only watched."""
    train, kind = task.job.train, methods.find(task.job.method.name)
    looks = {*range(VALIDATE, STEPS, VALIDATE), STEPS} if train.validate_every else set()
    assert bool(train.probe_every) == any(name.startswith("online/") for name in watcher.metrics)
    assert bool(looks) == ("validation/total" in watcher.metrics)
    assert {step for step, columns in watcher.pictures if columns} == (
        looks if kind.pictures != Method.pictures else set()
    )


def judged(method, *, data, job):
    """Its features are numbers that a probe learns from; a method that learned from labels tells them itself."""
    pixels, au, identity = labelled_frames(Dataset(data), count=50)
    still = torch.from_numpy(augment.still(job.data.augment)).expand(len(pixels), -1)
    images = augment.apply(torch.from_numpy(pixels), still, size=job.data.image_size)
    with torch.no_grad():
        features = method.encoder(images)
    assert features.shape == (len(pixels), method.encoder.dim)
    assert features.isfinite().all()
    assert features.std(0).any()
    if method.learns_from_labels(method.config):
        batch = random_batch(method.judged(method.config), size=job.data.image_size, aus=au.shape[1], samples=5)
        logits = method.predict(batch)
        assert logits.shape == (5, au.shape[1])
        assert logits.isfinite().all()
        return
    labelled = Labelled.open(data, evaluate=job.evaluate)
    table = cross_validate(
        features.numpy(), au=au, identity=identity, aus=labelled.aus, split=labelled.split, name=job.method.name,
        probe=Probe(epochs=2, batch_size=16),
    )  # fmt: skip
    assert all(math.isfinite(value) for value in table.rows[0].metrics().values())
