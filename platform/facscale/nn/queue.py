"""A first-in first-out memory of keys, the same on every worker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facscale.nn.workers import gathered

NOBODY = -1


class Queue(nn.Module):
    """The last `size` keys of all workers with the identities that they came from.

    Every worker enqueues the gathered keys of all, in rank order, so all queues stay identical. `keys` [size, dim] and
    `identities` [size] are buffers: saved with the method, or a resumed run would be another run. Until the queue has
    gone round once, `filled` < size and the rest must not be used.
    """

    keys: Tensor
    identities: Tensor
    cursor: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("identities", torch.full((size,), NOBODY))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, identities: Tensor) -> None:
        """Add this worker's keys [N, dim] of `identities` [N], and all other workers'; the oldest ones leave.

        In eval mode nothing happens: validation leaves no trace.
        """
        if not self.training:
            return
        keys, identities = gathered(keys.detach().float()), gathered(identities)
        keys, identities = keys[-self.size :], identities[-self.size :]
        places = (int(self.cursor) + torch.arange(len(keys), device=keys.device)) % self.size
        self.keys[places] = keys
        self.identities[places] = identities
        self.cursor.add_(len(keys)).remainder_(self.size)
        self.filled.add_(len(keys)).clamp_(max=self.size)
