"""How busy a worker keeps its CPU cores and its GPU."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pynvml
import torch

INTERVAL_S = 1.0
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # cgroup v2, v1


class Usage:
    """Measures `cores` and `gpu` between the last `begin` and the end of `with Usage(device) as usage:`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._samples: list[float] = []
        self._ended = threading.Event()
        self.cores = 0.0  # busy cores on average, known at the end of the block
        self.begin()

    def begin(self) -> None:
        """Discard what was measured so far."""
        self._start, self._cpu_start = time.monotonic(), time.process_time()
        self._samples.clear()

    @property
    def gpu(self) -> float | None:
        """Share of the time in which the GPU was busy, by NVML; None if that is unknown."""
        return sum(self._samples) / len(self._samples) if self._samples else None

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            threading.Thread(target=self._sample, name="usage", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.cores = (time.process_time() - self._cpu_start) / max(time.monotonic() - self._start, 1e-9)

    def _sample(self) -> None:
        """Sample until the block ends; without NVML, and for a MIG device, which has no such figure, not at all."""
        uuid = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            try:
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                while not self._ended.wait(INTERVAL_S):
                    self._samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            finally:
                pynvml.nvmlShutdown()


def get_memory_size(device: torch.device) -> int:
    """Return the memory of the GPU; on the CPU that of the node, or of the container if that has less."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [psutil.virtual_memory().total]
    for path in MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)
