"""What a node of a cluster says of itself. Runs there by itself: nothing but the standard library, and torch where GPUs are."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "deepspeed", "numpy", "pyarrow")
SMI = ("index", "name", "driver_version", "temperature.gpu", "ecc.errors.uncorrected.volatile.total",
       "clocks_throttle_reasons.hw_slowdown", "clocks_throttle_reasons.sw_thermal_slowdown")  # fmt: skip
SMI_S = 20
TRIED_BYTES = (
    2 << 30
)  # free memory that a GPU must have for the small matrix product: its context alone takes a quarter
SIDE = 512  # of that product's matrices


def report(folders: tuple[str, ...] = ()) -> dict[str, Any]:
    """Versions, room and limits; `folders`: how much is free where these lie."""
    shm, tmp = shutil.disk_usage("/dev/shm"), shutil.disk_usage("/tmp")  # noqa: S108 - Ray's places
    return {
        "versions": {"python": ".".join(map(str, sys.version_info[:3])), **versions()},
        "facscale": ours(),
        "compiler": {name: bool(shutil.which(name)) or beside(name) for name in ("g++", "ninja")},
        "shm_bytes": shm.total,
        "tmp_used": 1 - tmp.free / tmp.total,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "processes": most_processes(),
        "free": {folder: free(folder) for folder in folders},
    }


def versions() -> dict[str, str]:
    """Of the packages that must agree; "" where one is missing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def ours() -> dict[str, str]:
    """facscale's version, and a checksum of its source: images of two days have the same version. Or what is wrong."""
    try:
        package = importlib.import_module("facscale")
    except Exception as error:  # noqa: BLE001 - whatever is wrong there
        return {"error": f"{type(error).__name__}: {error}"}
    root = Path(package.__file__ or "").parent
    code = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return {"version": package.__version__, "code": code.hexdigest()[:12]}


def beside(name: str) -> bool:
    """Whether a program lies beside this Python, which need not be in the path."""
    return (Path(sys.executable).parent / name).exists()


def most_processes() -> int:
    """Threads and processes that may be started: the user's limit, or the container's if that is less; -1: no limit."""
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0]]
    for place in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        try:
            limits.append(int(Path(place).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min((limit for limit in limits if limit >= 0), default=-1)


def free(folder: str) -> dict[str, Any]:
    """Bytes that fit into a folder that may not exist yet, and whether we may write there."""
    place = Path(folder).expanduser().absolute()
    while not place.exists():
        place = place.parent
    return {"bytes": shutil.disk_usage(place).free, "writable": os.access(place, os.W_OK)}


def clock() -> float:
    """Seconds since 1970, by the node's clock."""
    return time.time()


def gpus() -> list[dict[str, Any]]:
    """Each GPU that torch sees here: name, memory, whether it multiplies as the CPU does. Empty where there is none."""
    import torch

    return [gpu(number) for number in range(torch.cuda.device_count())]


def gpu(number: int) -> dict[str, Any]:
    """One of them; "error" says what failed, "busy" that too little memory was free to try."""
    import torch

    about: dict[str, Any] = {"number": number}
    try:
        device = torch.device("cuda", number)
        properties = torch.cuda.get_device_properties(device)
        about["free_bytes"], about["total_bytes"] = torch.cuda.mem_get_info(device)
        about |= {"name": properties.name, "capability": [properties.major, properties.minor]}
        if about["free_bytes"] < TRIED_BYTES:
            return about | {"busy": True}
        a, b = torch.randn(2, SIDE, SIDE, dtype=torch.float64).unbind()
        difference = ((a.to(device) @ b.to(device)).cpu() - a @ b).abs().max()
        about["difference"] = float(difference)
    except Exception as error:  # noqa: BLE001 - whatever ails it
        about["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return about


def nvidia_smi() -> list[dict[str, str]]:
    """What the driver says of each GPU, by the names in `SMI`; empty where the program is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [dict(zip(SMI, line, strict=True)) for line in lines if len(line) == len(SMI)]
