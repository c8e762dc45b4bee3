"""A first-in first-out queue of keys, identical on every worker."""

from __future__ import annotations

import torch
from torch import Tensor

from facscale.nn.distributed import all_gather
from facscale.nn.host import HostState

NO_IDENTITY = -1


class Queue(HostState):
    """The last `size` keys of all workers, each with the identity of its sample.

    Every worker enqueues the keys of all workers, in rank order, so that all queues stay identical. `keys` [size, dim]
    and `identities` [size] are buffers, saved with the method: without them a resumed run would be a different run.
    Until `size` keys have been enqueued, only the first `filled` rows may be used. `cursor` and `filled` are in host memory.
    """

    keys: Tensor
    identities: Tensor
    cursor: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("identities", torch.full((size,), NO_IDENTITY))
        self.register_host_buffer("cursor", 0)
        self.register_host_buffer("filled", 0)

    @property
    def stored(self) -> Tensor:
        """The keys that may be used, [filled, dim]; `enqueue` changes them in place."""
        return self.keys[: int(self.filled)]

    @torch.no_grad()
    def enqueue(self, keys: Tensor, identities: Tensor) -> None:
        """Add this worker's keys [N, dim] with their `identities` [N], and all other workers'; the oldest keys leave.

        In eval mode the queue does not change: validation leaves no trace.
        """
        if not self.training:
            return
        keys, identities = all_gather(keys.detach().float()), all_gather(identities)
        keys, identities = keys[-self.size :], identities[-self.size :]
        cursor = int(self.cursor)
        first = min(len(keys), self.size - cursor)  # as many fit before the end; the others go to the beginning
        for buffer, values in ((self.keys, keys), (self.identities, identities)):
            buffer[cursor : cursor + first] = values[:first]
            buffer[: len(values) - first] = values[first:]
        self.cursor.add_(len(keys)).remainder_(self.size)
        self.filled.add_(len(keys)).clamp_(max=self.size)
