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


@contextmanager
def fetch_latest(training: str) -> Iterator[Path]:
    """The newest checkpoint of the Ray Train run at the URL `training`, as a local folder for the block."""
    from ray.train import Result

    latest = Result.from_path(training).checkpoint
    if latest is None:
        raise CheckpointError(f"{training} has no checkpoint to go on from")
    with latest.as_directory() as folder:
        yield Path(folder)


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
