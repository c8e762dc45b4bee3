"""How busy a worker keeps its cores and its GPU."""

from __future__ import annotations

import subprocess
import threading
import time
from types import TracebackType
from typing import Self

import torch
from ray._private.utils import get_system_memory

EVERY_S = 1.0
PATIENCE_S = 10


class Usage:
    """`with Usage(device) as usage:`; from `begin` to the end of the block, `cores` and `gpu`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._looks: list[float] = []
        self._ended = threading.Event()
        self.cores = 0.0  # busy on average, once the block has ended
        self.begin()

    def begin(self) -> None:
        """What was before does not count."""
        self._began, self._processor = time.monotonic(), time.process_time()
        self._looks.clear()

    @property
    def gpu(self) -> float | None:
        """Share of the time in which the GPU had something to do, by nvidia-smi; None where that is not known."""
        return sum(self._looks) / len(self._looks) if self._looks else None

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            threading.Thread(target=self._look, name="usage", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.cores = (time.process_time() - self._processor) / max(time.monotonic() - self._began, 1e-9)

    def _look(self) -> None:
        card = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", card]
        while not self._ended.wait(EVERY_S):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)  # noqa: S603
                self._looks.append(float(done.stdout.strip()) / 100)
            except (OSError, ValueError, subprocess.SubprocessError):  # no such program, or a card that does not tell
                return


def memory_bytes(device: torch.device) -> int:
    """Of the GPU; of the node, or the container, where there is none."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(get_system_memory())
