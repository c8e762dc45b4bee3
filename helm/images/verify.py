"""Run at the end of an image's build: what is installed is what the locks say, for the right device, and works.

Usage: verify.py --device cpu|cuda LOCK...
"""  # noqa: INP001 - a program of its own

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path


def main(device: str, *locks: str) -> None:
    """Ends with status 1, and all that is wrong, where something is."""
    faults = [*unlocked(locks), *conflicts(), *wrong_torch(device), *uncompiled(), *unimportable()]
    sys.exit("\n".join(faults) or 0)


def unlocked(locks: tuple[str, ...]) -> Iterator[str]:
    """What is installed in another version than a lock says, or that no lock knows."""
    pins = [line.partition(";")[0].strip() for lock in locks for line in Path(lock).read_text().splitlines()]
    wanted = {normal(name): version for name, _, version in (pin.partition("==") for pin in pins)}
    for found in distributions():
        name, version = normal(found.metadata["Name"]), found.version.partition("+")[0]
        if name != "facscale" and wanted.get(name) != version:
            yield f"{name}=={version} is installed, the locks say {wanted.get(name, 'nothing')}"


def normal(name: str) -> str:
    """As indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def conflicts() -> Iterator[str]:
    """What packages miss, by their own word."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stdout.strip()


def wrong_torch(device: str) -> Iterator[str]:
    """A CPU build of PyTorch in the CUDA image, or the other way round."""
    import torch

    if (torch.version.cuda is not None) != (device == "cuda"):
        yield f"torch {torch.__version__} is not for {device}; which one pip finds is for its configuration to say"


def uncompiled() -> Iterator[str]:
    """DeepSpeed would compile its operator on the pod, where there is no compiler."""
    from deepspeed.git_version_info import installed_ops

    if not installed_ops["deepspeed_shm_comm"]:
        yield "DeepSpeed's operator deepspeed_shm_comm was not compiled"
    importlib.import_module("deepspeed.ops.comm.deepspeed_shm_comm_op")


def unimportable() -> Iterator[str]:
    """Modules of ours that do not import."""
    import facscale

    for module in pkgutil.walk_packages(facscale.__path__, "facscale."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            yield f"{module.name}: {error}"


if __name__ == "__main__":
    main(sys.argv[2], *sys.argv[3:])
