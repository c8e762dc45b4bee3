"""What a training must remember, and where it lies. It is read by whatever number of workers goes on from it.

A checkpoint is a folder. `state.pt` has the number of steps done (from which the stream's place, the learning rate and
all random numbers follow), every tensor of the method (momentum encoder and queue among them) and the whole optimizer
state. `method.safetensors` is the export that everyone else reads.
"""

from __future__ import annotations

import json
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
from facscale.train.loop import Run

STATE = "state.pt"
EXPORT = "method.safetensors"
OF_RAY = "checkpoint_manager_snapshot.json"  # Ray Train's own record of a training's checkpoints


class CheckpointError(UserError):
    """A checkpoint is not what `write` saves."""


def write(run: Run) -> Path | None:
    """Write a checkpoint of `run` to a new local folder on rank 0, and return it; None on other ranks.

    All workers must call it, for the optimizer state is gathered. Whoever called it removes the folder.
    """
    optimizers = {engine.root.name: engine.state() for engine in run.engines}
    if run.rank:
        return None
    folder = Path(tempfile.mkdtemp(prefix="facscale-checkpoint-"))
    state = {"step": run.step, "method": run.method.state_dict(), "optimizers": optimizers}
    torch.save(state, folder / STATE)
    (folder / EXPORT).write_bytes(export.save(run.method))
    return folder


def locate_latest(training: str) -> str:
    """The URL of the newest checkpoint of the training at the URL `training`, by Ray Train's own record of them."""
    with fsspec.open(f"{training}/{OF_RAY}") as file:
        name = json.load(file)["latest_checkpoint_result"]["checkpoint_dir_name"]
    return f"{training}/{name}"


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
