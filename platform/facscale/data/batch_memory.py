"""The memory of batches: one stretch for all tensors of a batch, used again once nobody refers to them."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from facscale.data import augment
from facscale.data.sample_index import SampleIndex
from facscale.data.views import Batch, Faces

ALIGNMENT = 64  # bytes


class Buffers(Protocol):
    """Where the memory of batches comes from."""

    def take(self, size: int) -> Tensor:
        """Return `size` bytes as uint8 [size], not initialised. They are used again when no tensor shares them any more."""


class BufferPool:
    """Memory of this process, which is used again: fresh pages cost as much as decoding."""

    def __init__(self, *, pin: bool) -> None:
        self._pin = pin
        self._free: list[np.ndarray] = []

    def take(self, size: int) -> Tensor:
        """Return uint8 [size]; of one size, for a pool serves batches of one stream."""
        if self._pin:  # torch keeps its own pool of pinned memory, which also waits for copies in progress
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        base = self._free.pop() if self._free else np.empty(size, dtype=np.uint8)
        return lend(base, lambda: self._free.append(base))


def lend(base: np.ndarray, release: Callable[[], object]) -> Tensor:
    """Return a tensor of the memory of `base`; `release` is called when no tensor shares it any more."""
    lent = base[:]  # lives exactly as long as the tensor's storage
    weakref.finalize(lent, release).atexit = False
    return torch.from_numpy(lent)


class SharedBuffer:
    """Memory that another process can open, given its file descriptor. It has no name, so it ends with its last user."""

    def __init__(self, size: int, *, pin: bool) -> None:
        """`pin`: register it with CUDA, so that the GPU copies from it while the host goes on. Raises OSError."""
        handle = os.memfd_create("facscale-batch", os.MFD_CLOEXEC)
        try:
            os.ftruncate(handle, size)
            self.bytes = open_shared(handle)
        except BaseException:
            os.close(handle)
            raise
        self.handle = handle
        if pin:
            _pin(self.bytes)

    def close_handle(self) -> None:
        """Close the file descriptor; the memory stays for as long as it is used."""
        os.close(self.handle)


def open_shared(handle: int) -> np.ndarray:
    """Return the memory behind a file descriptor, uint8 [bytes], which stays when the descriptor is closed."""
    return np.frombuffer(mmap.mmap(handle, 0), dtype=np.uint8)


def _pin(memory: np.ndarray) -> None:
    runtime = torch.cuda.cudart()
    torch.cuda.check_error(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
    weakref.finalize(memory, runtime.cudaHostUnregister, memory.ctypes.data).atexit = False


@dataclass(frozen=True)
class _Place:
    """Where a tensor of a batch lies in its memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes

    def open(self, memory: Tensor) -> Tensor:
        size = self.dtype.itemsize * math.prod(self.shape)
        return memory[self.offset : self.offset + size].view(self.dtype).view(self.shape)


class BatchLayout:
    """Where each tensor of a worker's batches lies; the same for all batches of a stream."""

    def __init__(self, index: SampleIndex) -> None:
        self.bytes = 0
        count, side = index.batch_size // index.world, index.datasets[0].manifest.image_size
        self._views: list[tuple[str, bool, dict[str, _Place], dict[str, _Place]]] = []
        for name, view in index.views.items():
            sides = (side, side) if view.pixels else (0, 0)
            tensors = {
                "images": self._add(torch.uint8, (count, view.count, *sides, 3)),
                "identity": self._add(torch.int64, (count,)),
                "augmentation": self._add(torch.float32, (count, view.count, view.views, len(augment.PARAMETERS))),
            }
            columns = {}
            for column in view.columns:
                dtype, shape = index.columns[column]
                columns[column] = self._add(torch.from_numpy(np.empty(0, dtype)).dtype, (count, view.count, *shape))
            self._views.append((name, view.is_aligned, tensors, columns))

    def _add(self, dtype: torch.dtype, shape: tuple[int, ...]) -> _Place:
        place = _Place(dtype, shape, self.bytes)
        self.bytes += -(-dtype.itemsize * math.prod(shape) // ALIGNMENT) * ALIGNMENT
        return place

    def build(self, memory: Tensor) -> Batch:
        """Return the batch whose tensors share `memory`, uint8 [bytes]."""
        return Batch(
            {
                name: Faces(
                    images=tensors["images"].open(memory),
                    identity=tensors["identity"].open(memory),
                    augmentation=tensors["augmentation"].open(memory),
                    columns={key: place.open(memory) for key, place in columns.items()},
                    is_aligned=is_aligned,
                )
                for name, is_aligned, tensors, columns in self._views
            }
        )
