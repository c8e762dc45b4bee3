"""Checkpoints whose files were cut or altered: none loads with other values, and the one before is used."""

from __future__ import annotations

import random
import shutil
from contextlib import nullcontext

import pytest
import torch

from facscale.compat.ray_checkpoints import SNAPSHOT, build_snapshot
from facscale.data import order
from facscale.inference.export import build_method
from facscale.methods import DataFacts, find_method
from facscale.spec import Job
from facscale.train import checkpoint
from facscale.train.checkpoint import CHECKSUMS, EXPORT, STATE, CheckpointError, DamagedCheckpointError
from facscale.train.checkpoint_record import list_resumable, repair_record
from facscale.train.schedule import Schedule
from facscale.train.state import TrainState
from facscale.train.task import ResumePoint


def write_checkpoint(folder, *, step, steps=None):
    """A checkpoint after `step` of `steps` steps; without these, the last one of its training."""
    torch.manual_seed(step)
    job = Job(method={"name": "clp"}, train={"epochs": 1, "batch_size": 1})
    config = find_method("clp").Config(depth=18, width=4, hidden=8, embedding=8, queue_size=8)
    method = build_method("clp", config, DataFacts())
    state = TrainState(
        job, Schedule(job, steps or step), method, [], lambda batch: batch, torch.device("cpu"), step=step
    )
    shutil.copytree(checkpoint.write(state), folder)
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("stored") / "checkpoint", step=7)


def mutate(data, draw):
    """Bytes as a failing disk, a killed upload or a proxy leaves them."""
    place, length = draw.randrange(len(data)), draw.choice([1, 1, 16, 512, 4096])
    kind = draw.choice(["flip", "flip", "cut", "zero", "repeat", "append", "remove"])
    changed = bytearray(data)
    if kind == "flip":
        changed[place] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del changed[place:]
    elif kind == "zero":
        changed[place : place + length] = bytes(len(changed[place : place + length]))
    elif kind == "repeat":
        changed[place : place + length] = changed[:length][: len(changed) - place]
    elif kind == "append":
        changed += bytes(length)
    else:
        del changed[place : place + length]
    return bytes(changed)


def load_all(folder):
    state = checkpoint.read(folder)
    return state["step"], {name: value.clone() for name, value in state["method"].items()}


@pytest.mark.parametrize("has_checksums", [True, False])
def test_no_mutation_loads_with_other_values(stored, tmp_path, has_checksums):
    """Before checkpoints had checksums, 108 of 600 mutations loaded with other values."""
    step, weights = load_all(stored)
    draw, refused = random.Random(0), 0
    for number in range(200):
        folder = tmp_path / str(number)
        shutil.copytree(stored, folder)
        if not has_checksums:  # as older versions wrote it
            (folder / CHECKSUMS).unlink()
        name = draw.choice([STATE, EXPORT, CHECKSUMS] if has_checksums else [STATE])
        (folder / name).write_bytes(mutate((stored / name).read_bytes(), draw))
        try:
            found_step, found = load_all(folder)
        except DamagedCheckpointError:
            refused += 1
        else:
            assert found_step == step
            assert all(torch.equal(found[key], value) for key, value in weights.items())
        shutil.rmtree(folder)
    assert refused > 150


@pytest.mark.parametrize("lost", [STATE, EXPORT])
def test_a_lost_file_is_named(stored, tmp_path, lost):
    folder = shutil.copytree(stored, tmp_path / "copy")
    (folder / lost).unlink()
    with pytest.raises(DamagedCheckpointError, match=rf"copy lacks {lost}"):
        checkpoint.read(folder)


def test_only_the_last_checkpoint_has_the_export(stored, tmp_path):
    assert checkpoint.read_export(stored, name="last")
    earlier = write_checkpoint(tmp_path / "earlier", step=7, steps=8)
    assert not (earlier / EXPORT).exists()
    assert checkpoint.read(earlier)["step"] == 7
    with pytest.raises(DamagedCheckpointError, match=f"earlier lacks {EXPORT}"):
        checkpoint.read_export(earlier, name="earlier")


def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path):
    folders = [write_checkpoint(tmp_path / f"step{step}", step=step) for step in (30, 20, 10)]
    stored = [checkpoint.StoredCheckpoint(str(folder), lambda folder=folder: nullcontext(folder)) for folder in folders]
    reasons = []
    assert checkpoint.restore(stored, report=reasons.append)["step"] == 30
    assert reasons == []
    with (folders[0] / STATE).open("r+b") as file:
        file.truncate(1000)
    (folders[1] / EXPORT).unlink()
    assert checkpoint.restore(stored, report=reasons.append)["step"] == 10
    assert len(reasons) == 2
    assert "step30/state.pt is damaged" in reasons[0]
    assert "step20 lacks method.safetensors; the checkpoint before it is used" in reasons[1]
    (folders[2] / CHECKSUMS).write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be used: .*step30.*step20.*step10.*Delete"):
        checkpoint.restore(stored, report=reasons.append)


def test_without_a_checkpoint_training_begins():
    assert checkpoint.restore([], report=pytest.fail) == {}


@pytest.mark.parametrize("damage", ["cut", "empty", "lost"])
def test_a_damaged_record_of_ray_train_is_written_anew(tmp_path, damage):
    """Ray Train writes it in place: a kill or a full disk once left a part of it, and no resubmission started any more."""
    from ray.train import Result

    names = [f"checkpoint_2026-11-29_21-04-3{number}.000000" for number in range(3)]
    for number, name in enumerate(names):
        write_checkpoint(tmp_path / "run" / name, step=10 * (number + 1))
    (tmp_path / "run" / names[2] / CHECKSUMS).unlink()  # its upload was cut short
    record = build_snapshot([(name, {"step": 10 * (number + 1)}) for number, name in enumerate(names)])
    if damage == "lost":
        shutil.rmtree(tmp_path / "run" / names[2])
    path = tmp_path / "run" / SNAPSHOT
    path.write_bytes({"cut": record[:-40], "empty": b"", "lost": record}[damage])
    assert "written anew from 2 checkpoints" in repair_record(str(tmp_path / "run"))
    result = Result.from_path(str(tmp_path / "run"))
    assert result.checkpoint.path.endswith(names[1])
    assert result.metrics == {"step": 20}
    stored = list_resumable(ResumePoint(str(tmp_path / "run"), 20))
    assert [item.url.rpartition("/")[2] for item in stored] == [names[1], names[0]]
    earlier = list_resumable(ResumePoint(str(tmp_path / "run"), 10))
    assert [item.url.rpartition("/")[2] for item in earlier] == [names[0], names[1]]
    assert checkpoint.restore(stored, report=pytest.fail)["step"] == 20
    before = path.read_bytes()
    assert repair_record(str(tmp_path / "run")) == ""
    assert path.read_bytes() == before


def test_a_record_without_checkpoints_is_removed(tmp_path):
    assert repair_record(str(tmp_path)) == ""
    (tmp_path / SNAPSHOT).write_bytes(b"{")
    assert "begins again" in repair_record(str(tmp_path))
    assert not (tmp_path / SNAPSHOT).exists()


def test_a_checkpoint_of_another_order_of_samples_is_refused(stored, tmp_path):
    """A training that was begun before version 2 of the order would see samples twice, and miss others."""
    before = tmp_path / "before"
    shutil.copytree(stored, before)
    state = torch.load(stored / STATE, weights_only=True)
    assert state.pop("order") == order.VERSION
    torch.save(state, before / STATE)
    (before / CHECKSUMS).unlink()
    for folder, expected in ((stored, 7), (before, None)):
        candidate = checkpoint.StoredCheckpoint(f"s3://runs/{folder.name}", lambda folder=folder: nullcontext(folder))
        if expected:
            assert checkpoint.restore([candidate], report=pytest.fail)["step"] == expected
            continue
        with pytest.raises(CheckpointError, match=r"s3://runs/before is of a training with order 1 .* begin it again"):
            checkpoint.restore([candidate], report=pytest.fail)
