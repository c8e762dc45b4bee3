"""Small state of a module that the host decides by: it stays in host memory, so that no step waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class HostState(nn.Module):
    """A module some of whose buffers stay in host memory, whichever device the module is moved to.

    Reading a number from a device makes the host wait until the device has done all that it was asked for. Counters by
    which Python code chooses rows or branches are therefore kept on the host. They are buffers, saved with the module.
    """

    def __init__(self) -> None:
        super().__init__()
        self._host_buffers: tuple[str, ...] = ()

    def register_host_buffer(self, name: str, value: float) -> None:
        """Add a buffer with one number: int64 for an int, float32 for a float."""
        self.register_buffer(name, torch.tensor(value, device="cpu"))
        self._host_buffers = (*self._host_buffers, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Convert or move everything but the host's buffers."""
        kept = {name: self._buffers[name] for name in self._host_buffers}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(kept)
        return self
