"""Checks an image at the end of its build: installed versions, the build of torch, DeepSpeed's operator, and all imports.

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
    """Print all problems and exit with status 1 if there are any."""
    problems = [
        *find_unlocked(locks),
        *find_conflicts(),
        *find_wrong_torch(device),
        *find_uncompiled(),
        *find_unimportable(),
    ]
    sys.exit("\n".join(problems) or 0)


def find_unlocked(locks: tuple[str, ...]) -> Iterator[str]:
    """Find packages that no lock lists, or that are installed in another version."""
    lines = [line for lock in locks for line in Path(lock).read_text().splitlines()]
    pins = [re.match(r"([\w.-]+)==([^ ;]+)", line) for line in lines]  # other lines are hashes
    locked = {normalize_name(pin[1]): pin[2] for pin in pins if pin}
    for package in distributions():
        name, version = normalize_name(package.metadata["Name"]), package.version.partition("+")[0]
        if name != "facscale" and locked.get(name) != version:
            yield f"{name}=={version} is installed, but the locks have {locked.get(name, 'no version of it')}"


def normalize_name(name: str) -> str:
    """Normalise a name as package indexes do (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_conflicts() -> Iterator[str]:
    """Find packages whose declared dependencies are missing."""
    result = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if result.returncode:
        yield result.stdout.strip()


def find_wrong_torch(device: str) -> Iterator[str]:
    """Find a CPU build of PyTorch in the CUDA image, or a CUDA build in the CPU image."""
    import torch

    if (torch.version.cuda is not None) != (device == "cuda"):
        yield f"torch {torch.__version__} is no build for {device}; name an index that has one in pip's configuration"


def find_uncompiled() -> Iterator[str]:
    """Find out whether DeepSpeed would compile its operator on the pod, where there is no compiler."""
    from deepspeed.git_version_info import installed_ops

    if not installed_ops["deepspeed_shm_comm"]:
        yield "DeepSpeed's operator deepspeed_shm_comm was not compiled"
    importlib.import_module("deepspeed.ops.comm.deepspeed_shm_comm_op")


def find_unimportable() -> Iterator[str]:
    """Find modules of facscale that cannot be imported."""
    import facscale

    for module in pkgutil.walk_packages(facscale.__path__, "facscale."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            yield f"{module.name}: {error}"


if __name__ == "__main__":
    main(sys.argv[2], *sys.argv[3:])
