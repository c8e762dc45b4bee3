"""A first-in first-out queue of keys, identical on every worker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facscale.nn.distributed import all_gather

NO_IDENTITY = -1


class Queue(nn.Module):
    """The last `size` keys of all workers, each with the identity of its sample.

    Every worker enqueues the keys of all workers, in rank order, so that all queues stay identical. `keys` [size, dim]
    and `identities` [size] are buffers, saved with the method: without them a resumed run would be a different run.
    Until `size` keys have been enqueued, only the first `filled` rows may be used.
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
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, identities: Tensor) -> None:
        """Add this worker's keys [N, dim] with their `identities` [N], and all other workers'; the oldest keys leave.

        In eval mode the queue does not change: validation leaves no trace.
        """
        if not self.training:
            return
        keys, identities = all_gather(keys.detach().float()), all_gather(identities)
        keys, identities = keys[-self.size :], identities[-self.size :]
        rows = (int(self.cursor) + torch.arange(len(keys), device=keys.device)) % self.size
        self.keys[rows] = keys
        self.identities[rows] = identities
        self.cursor.add_(len(keys)).remainder_(self.size)
        self.filled.add_(len(keys)).clamp_(max=self.size)
