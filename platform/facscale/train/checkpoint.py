"""Checkpoints: the state of a training, from which any number of workers can resume.

A checkpoint is a folder. `state.pt` has the number of steps done (from which the stream's place, the learning rate and
all random numbers follow), every tensor of the method (momentum encoder and queue among them) and the whole optimizer
state. `method.safetensors` is the export that everyone else reads.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import torch

from facscale.errors import UserError
from facscale.inference import export
from facscale.train.state import TrainState
from facscale.train.task import ResumePoint

STATE = "state.pt"
EXPORT = "method.safetensors"


class CheckpointError(UserError):
    """A checkpoint is not what `write` saves."""


def write(state: TrainState) -> Path | None:
    """Write a checkpoint of `state` to a new local folder on rank 0, and return it; None on other ranks.

    All workers must call it, for the optimizer state is gathered. The caller removes the folder.
    """
    optimizers = {engine.root.name: engine.state() for engine in state.engines}
    if state.rank:
        return None
    folder = Path(tempfile.mkdtemp(prefix="facscale-checkpoint-"))
    tensors = {"step": state.step, "method": state.method.state_dict(), "optimizers": optimizers}
    torch.save(tensors, folder / STATE)
    (folder / EXPORT).write_bytes(export.save_export(state.method))
    return folder


def read_resume_point(point: ResumePoint) -> dict[str, Any]:
    """What `write` saved of a Ray Train run: its newest checkpoint up to `point.step`, else the oldest that it keeps.

    The run may have trained on since `point.step`, even to its end, and it keeps only its last few checkpoints.
    Raises CheckpointError where it has none.
    """
    from ray.train import Result

    checkpoints = Result.from_path(point.training).best_checkpoints or []
    by_step = {int(metrics["step"]): checkpoint for checkpoint, metrics in checkpoints}
    if not by_step:
        raise CheckpointError(f"{point.training} has no checkpoint to resume from")
    step = max((step for step in by_step if step <= point.step), default=min(by_step))
    with by_step[step].as_directory() as folder:
        return read(Path(folder), name=by_step[step].path)


@contextmanager
def fetch(url: str) -> Iterator[Path]:
    """The checkpoint at `url` as a local folder: the folder itself, or a copy that goes with the block."""
    store, folder = fsspec.core.url_to_fs(url)
    if store.protocol == "file" or "file" in store.protocol:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="facscale-checkpoint-") as copy:
        store.get(f"{folder}/", f"{copy}/", recursive=True)
        yield Path(copy)


def read(folder: Path, *, name: str = "") -> dict[str, Any]:
    """What `write` saved, on the CPU. `name`: what an error calls the checkpoint; else its folder.

    Raises CheckpointError where more than tensors and plain values would be unpickled.
    """
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{name or folder}/{STATE} holds more than tensors and plain values, which no checkpoint of ours does: it is "
            "not read; delete it, or choose another cluster.storage"
        ) from None
    return state
