"""Facts about a node, collected on it. Needs only the standard library, and torch and NVML where GPUs are."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "deepspeed", "numpy", "pyarrow")
MIN_FREE_BYTES = 2 << 30  # of GPU memory, for the test product: the CUDA context alone takes a quarter
MATRIX_SIDE = 512  # of the test product


def collect_facts(folders: tuple[str, ...] = ()) -> dict[str, Any]:
    """Collect versions, limits and free space, the latter also for each of `folders`."""
    shm, tmp = shutil.disk_usage("/dev/shm"), shutil.disk_usage("/tmp")  # noqa: S108 - where Ray keeps objects
    return {
        "versions": {"python": ".".join(map(str, sys.version_info[:3])), **get_package_versions()},
        "facscale": get_facscale_version(),
        "operator": is_operator_included(),
        "compiler": {name: bool(shutil.which(name)) or is_beside_python(name) for name in ("g++", "ninja")},
        "shm_bytes": shm.total,
        "tmp_used": 1 - tmp.free / tmp.total,  # a share
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "processes": get_process_limit(),
        "free": {folder: measure_free_space(folder) for folder in folders},
    }


def is_operator_included() -> bool:
    """Return whether DeepSpeed was installed with its operator for workers on CPUs, as in our images."""
    package = importlib.util.find_spec("deepspeed")
    folder = Path(package.origin or "").parent / "ops" / "comm" if package else Path()
    return any(folder.glob("deepspeed_shm_comm_op*.so"))


def get_package_versions() -> dict[str, str]:
    """Return the versions of the packages that must agree between nodes; "" for a missing one."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def get_facscale_version() -> dict[str, str]:
    """Return facscale's version and 12 digits of a checksum over its source, or the error of its import.

    Images of two days can have the same version; the checksum tells them apart.
    """
    try:
        package = importlib.import_module("facscale")
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything
        return {"error": f"{type(error).__name__}: {error}"}
    root = Path(package.__file__ or "").parent
    code = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return {"version": package.__version__, "code": code.hexdigest()[:12]}


def is_beside_python(name: str) -> bool:
    """Return whether a program lies in the folder of this Python, which need not be in PATH."""
    return (Path(sys.executable).parent / name).exists()


def get_process_limit() -> int:
    """Return how many threads and processes may run: the lower of the user's and the container's limit; -1: none."""
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0]]
    for path in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min((limit for limit in limits if limit >= 0), default=-1)


def measure_free_space(folder: str) -> dict[str, Any]:
    """Return the free bytes of a folder that need not exist yet, and whether it is writable."""
    path = Path(folder).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return {"bytes": shutil.disk_usage(path).free, "writable": os.access(path, os.W_OK)}


def read_clock() -> float:
    """Return the node's time, in seconds since 1970."""
    return time.time()


def probe_gpus() -> list[dict[str, Any]]:
    """Probe each GPU that torch sees (`probe_gpu`); empty where there is none."""
    import torch

    return [probe_gpu(number) for number in range(torch.cuda.device_count())]


def probe_gpu(number: int) -> dict[str, Any]:
    """Multiply two matrices on a GPU and on the CPU; return memory, name and the largest difference.

    "error" holds what failed; "busy" is set instead of "difference" where too little memory is free.
    """
    import torch

    facts: dict[str, Any] = {"number": number}
    try:
        device = torch.device("cuda", number)
        properties = torch.cuda.get_device_properties(device)
        facts["free_bytes"], facts["total_bytes"] = torch.cuda.mem_get_info(device)
        facts |= {"name": properties.name, "capability": [properties.major, properties.minor]}
        if facts["free_bytes"] < MIN_FREE_BYTES:
            return facts | {"busy": True}
        a, b = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE, dtype=torch.float64).unbind()
        difference = ((a.to(device) @ b.to(device)).cpu() - a @ b).abs().max()
        facts["difference"] = float(difference)
    except Exception as error:  # noqa: BLE001 - a broken GPU may raise anything
        facts["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return facts


def read_gpu_health() -> list[dict[str, Any]]:
    """Read temperature, memory errors and slowdowns of each GPU from the driver (NVML).

    A figure is None where the driver does not provide it: a MIG device, a GPU without ECC, no permission. The list is
    empty without NVML or without a GPU.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no package, no driver, no permission
        return []
    reasons = {
        "hw_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
        "sw_thermal_slowdown": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    }

    def read(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except pynvml.NVMLError:
            return None

    try:
        gpus = []
        for index in range(read(pynvml.nvmlDeviceGetCount) or 0):
            handle = read(pynvml.nvmlDeviceGetHandleByIndex, index)
            counter = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
            active = read(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
            gpus.append(
                {
                    "index": index,
                    "temperature_c": read(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
                    "ecc_errors": read(pynvml.nvmlDeviceGetTotalEccErrors, handle, *counter),
                    "slowdowns": [name for name, bit in reasons.items() if active & bit],
                }
            )
        return gpus
    finally:
        pynvml.nvmlShutdown()
