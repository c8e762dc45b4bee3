"""Checkpoints: the state of a training, from which any number of workers can resume.

A checkpoint is a folder. `state.pt` has the number of steps done (from which the stream's place, the learning rate and
all random numbers follow), the version of the order in which samples are taken, every tensor of the method (momentum
encoder and queue among them) and the whole optimizer state. `method.safetensors` is the export that everyone else reads;
only the last checkpoint of a training has it. `checksums.json` has the SHA-256 of the files, so that a checkpoint that
was cut or altered on its way is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from facscale.data import order
from facscale.data.storage import open_fsspec
from facscale.errors import UserError
from facscale.inference import export
from facscale.train.divergence import gather_lists
from facscale.train.state import TrainState

STATE = "state.pt"
EXPORT = "method.safetensors"
CHECKSUMS, METRICS = "checksums.json", "metrics"


class CheckpointError(UserError):
    """A checkpoint is not what `write` saves."""


class DamagedCheckpointError(CheckpointError):
    """A file of a checkpoint was cut, altered or lost."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in a store."""

    url: str
    open: Callable[[], AbstractContextManager[str | Path]]  # a local folder with its files, for the block
    step: int = 0


def write(state: TrainState, metrics: Mapping[str, float] | None = None) -> Path | None:
    """Write a checkpoint of `state` to a new local folder on rank 0, and return it; None on other ranks.

    `metrics` are kept with it. All workers must call it, for the optimizer state is gathered. The caller removes the folder.
    """
    optimizers = {engine.root.name: engine.state() for engine in state.engines}
    if state.rank:
        return None
    folder = Path(tempfile.mkdtemp(prefix="facscale-checkpoint-"))
    tensors = {
        "step": state.step,
        "order": order.VERSION,
        "method": state.method.state_dict(),
        "optimizers": optimizers,
    }
    torch.save(tensors, folder / STATE)
    if state.step >= state.schedule.steps:
        (folder / EXPORT).write_bytes(export.save_export(state.method))
    checksums = {path.name: compute_checksum(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS).write_text(json.dumps({**checksums, METRICS: dict(metrics or {"step": state.step})}))
    return folder


def sort_newest_first(stored: Sequence[StoredCheckpoint]) -> list[StoredCheckpoint]:
    """Checkpoints in the order in which they were kept, the newest first; of one step, the later one.

    Of one step there can be two, if the first of them was damaged.
    """
    latest_first = list(reversed(stored))
    return sorted(latest_first, key=lambda item: item.step, reverse=True)


def restore(stored: Sequence[StoredCheckpoint], *, report: Callable[[str], None]) -> dict[str, Any]:
    """Read the first checkpoint that every worker finds undamaged; `report` is told of those that are passed over.

    Empty without checkpoints. Collective. Raises CheckpointError where all are damaged, or of another order of samples.
    """
    problems: list[str] = []
    for candidate in stored:
        state, own = dict[str, Any](), []
        try:
            with candidate.open() as folder:
                state = read(Path(folder), name=candidate.url)
        except DamagedCheckpointError as error:
            own = [str(error)]
        damages = [damage for worker in gather_lists(own) for damage in worker]
        if not damages:
            check_order(state, name=candidate.url)
            return state
        problems.append(damages[0])
        if candidate is not stored[-1]:
            report(f"{damages[0]}; the checkpoint before it is used")
    if problems:
        raise CheckpointError(
            f"no checkpoint can be used: {'; '.join(problems)}. Delete the folder of the training to begin it again"
        )
    return {}


def check_order(state: Mapping[str, Any], *, name: str) -> None:
    """Raise CheckpointError where a state's place in the stream belongs to another order of the samples.

    Training on from there would see some samples of the epoch twice and others not at all. Checkpoints before version 2 of
    the order do not have its number.
    """
    version = state.get("order", 1)
    if version != order.VERSION:
        raise CheckpointError(
            f"{name} is of a training with order {version} of the samples, and this version of facscale has order "
            f"{order.VERSION}: continue the training with the version that began it, or delete its folder to begin it again"
        )


@contextmanager
def fetch(url: str) -> Iterator[Path]:
    """The checkpoint at `url` as a local folder: the folder itself, or a copy that goes with the block."""
    store, folder = open_fsspec(url)
    if store.protocol == "file" or "file" in store.protocol:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="facscale-checkpoint-") as copy:
        store.get(f"{folder}/", f"{copy}/", recursive=True)
        yield Path(copy)


def read(folder: Path, *, name: str = "") -> dict[str, Any]:
    """What `write` saved, on the CPU. `name`: what an error calls the checkpoint; else its folder.

    Raises DamagedCheckpointError for files that are not as they were written, and CheckpointError where more than
    tensors and plain values would be unpickled.
    """
    name = name or str(folder)
    verify(folder, name=name)
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{name}/{STATE} holds more than tensors and plain values, which no checkpoint of ours does: it is "
            "not read; delete it, or choose another cluster.storage"
        ) from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise DamagedCheckpointError(f"{name}/{STATE} is damaged ({str(error).splitlines()[0][:200]})") from None
    return state


def read_export(folder: Path, *, name: str) -> bytes:
    """The export in the last checkpoint of a training. Raises DamagedCheckpointError, which calls the checkpoint `name`."""
    verify(folder, name=name)
    if not (folder / EXPORT).exists():
        raise DamagedCheckpointError(f"{name} lacks {EXPORT}")
    return (folder / EXPORT).read_bytes()


def verify(folder: Path, *, name: str) -> None:
    """Compare a checkpoint's files with their checksums. Raises DamagedCheckpointError.

    Checkpoints of older versions have none; of those the checksums inside state.pt are compared, 32 bits for each tensor.
    """
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
        files = [STATE, *([EXPORT] if EXPORT in expected else [])]
        differing = [file for file in files if compute_checksum(folder / file) != expected[file]]
    except FileNotFoundError as error:
        if Path(str(error.filename)).name != CHECKSUMS or not (folder / STATE).exists():
            raise DamagedCheckpointError(f"{name} lacks {Path(str(error.filename)).name}") from None
        differing = [] if has_intact_members(folder / STATE) else [STATE]
    except (ValueError, TypeError, KeyError):
        differing = [CHECKSUMS]
    if differing:
        raise DamagedCheckpointError(f"{name}/{differing[0]} is damaged: it is not the file that was written")


def has_intact_members(path: Path) -> bool:
    """Whether the members of a file of torch.save fit their own checksums."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return False


def compute_checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
