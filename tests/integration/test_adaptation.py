"""Adaptation of BatchNorm in a fold: nothing about the people whom the fold tests reaches the weights."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import simplejpeg
import torch
from safetensors.torch import load
from torch import multiprocessing

from faces import make_picture, make_track, write_tracks
from facscale.evaluate.protocol import LabelledDataset
from facscale.job.datasets import JobData
from facscale.job.plan import build_plan, make_task
from facscale.job.variants import expand_variants
from facscale.spec import read_spec
from facscale.train.checkpoint import EXPORT
from facscale.train.trainer import initialize
from integration import local_worker
from ports import free_port

pytestmark = pytest.mark.slow("trains in processes of its own")

JOB = """
method: {{name: simclr, depth: 18, width: 4}}
data: {{labelled: [{data}], image_size: 32, threads: 1}}
cluster: {{gpus_per_worker: 0, storage: {folder}}}
evaluate: {{folds: 3, protocol: adapted-batchnorm, adaptation: {{epochs: 1, batch_size: 8}}}}
"""


def write_faces(url, *, altered=()):
    """Nine people; `altered` ones have other pictures under the same labels."""
    tracks = []
    for person in range(9):
        rows = make_track(person, frames=range(6), au=2)
        if f"id{person:05d}" in altered:
            pictures = [simplejpeg.encode_jpeg(make_picture(99, frame, size=32)) for frame in range(6)]
            rows = rows.set_column(rows.column_names.index("jpeg"), "jpeg", [pictures])
        tracks.append(rows)
    write_tracks(str(url), tracks, au=(1, 12), name="faces")


def plan_adaptation(tmp_path, data):
    """The split, and the task of the first fold on an untrained encoder."""
    (tmp_path / "job.yaml").write_text(JOB.format(data=data, folder=tmp_path))
    (row,) = expand_variants(read_spec(tmp_path / "job.yaml"), name="row")
    dataset = LabelledDataset.open(str(data), evaluate=row.job.evaluate)
    plan = build_plan([row], JobData((dataset,)))
    pretrained, first, *_ = plan.trainings.values()
    task = make_task(first, {pretrained.id: initialize(make_task(pretrained, {}, identities=0))}, identities=0)
    return dataset.split, task


def test_weights_depend_on_the_training_people_and_not_on_those_who_are_tested(tmp_path):
    write_faces(tmp_path / "data" / "faces")
    split, task = plan_adaptation(tmp_path, tmp_path / "data" / "faces")
    tasks = {"plain": task, "again": task}
    for name, altered in (("tested", split[0].test), ("trained", [min(split[0].train)])):
        write_faces(tmp_path / "data" / name, altered=altered)
        other_split, other = plan_adaptation(tmp_path, tmp_path / "data" / name)
        assert other_split == split
        tasks[name] = replace(other, inputs=task.inputs)
    tasks["seeded"] = replace(task, job=task.job.model_copy(update={"seed": 1}))
    (tmp_path / "tasks").write_bytes(pickle.dumps(tasks))
    multiprocessing.spawn(local_worker.fit, (1, free_port(), tmp_path / "tasks"), nprocs=1)
    weights = {name: load((tmp_path / name / EXPORT).read_bytes()) for name in tasks}
    before = load(task.inputs["pretrained"])

    def find_changes(name, *, reference):
        return {key for key, value in weights[name].items() if not torch.allclose(value, reference[key], atol=1e-6)}

    adapted = find_changes("plain", reference={**weights["plain"], **before})
    assert {"encoder.bn1.running_mean", "encoder.bn1.weight", "encoder.layer4.1.bn2.running_var"} <= adapted
    assert not any("conv" in key for key in adapted)
    assert not find_changes("again", reference=weights["plain"])
    assert not find_changes("tested", reference=weights["plain"])
    assert "encoder.bn1.running_mean" in find_changes("trained", reference=weights["plain"])
    assert "classifier.1.weight" in find_changes("seeded", reference=weights["plain"])
