"""The whole state of a run as a folder that any number of workers can go on from.

`state.pt` holds the step (from which the stream's cursor, the learning rate and all random numbers follow), every
tensor of the method (momentum encoder and queue among them) and the whole optimizer state. `method.safetensors` is the
export that everyone else reads.
"""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs
import torch
from ray.train import Checkpoint

from facscale.errors import UserError
from facscale.methods import export
from facscale.train.loop import Run

STATE = "state.pt"
EXPORT = "method.safetensors"


class CheckpointError(UserError):
    """A checkpoint is not what `write` saves."""


def write(run: Run) -> Checkpoint | None:
    """A checkpoint of `run`, on rank 0; None elsewhere. All workers must call it: optimizer state is gathered."""
    optimizers = {engine.root.name: engine.state() for engine in run.engines}
    if run.rank:
        return None
    folder = Path(tempfile.mkdtemp(prefix="facscale-checkpoint-"))
    state = {"step": run.step, "method": run.method.state_dict(), "optimizers": optimizers}
    torch.save(state, folder / STATE)
    (folder / EXPORT).write_bytes(export.save(run.method))
    return Checkpoint.from_directory(str(folder))


def latest(run: str) -> Checkpoint:
    """The newest checkpoint of the run that lies at the URL `run`, by Ray Train's own record of them."""
    with fsspec.open(f"{run}/checkpoint_manager_snapshot.json") as file:
        name = json.load(file)["latest_checkpoint_result"]["checkpoint_dir_name"]
    store, folder = fsspec.core.url_to_fs(f"{run}/{name}")
    return Checkpoint(folder, pa.fs.PyFileSystem(pa.fs.FSSpecHandler(store)))


def read(checkpoint: Checkpoint) -> dict[str, object]:
    """What `write` saved, on the CPU. Raises CheckpointError where more than tensors and plain values would be unpickled."""
    with checkpoint.as_directory() as folder:
        try:
            state: dict[str, object] = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise CheckpointError(
                f"{checkpoint.path}/{STATE} holds more than tensors and plain values, which no checkpoint of ours does: it is "
                "not read; delete it, or choose another cluster.storage"
            ) from None
    return state
