"""One small batch, learned by heart."""

from __future__ import annotations

import torch

from facscale.data.views import Batch
from facscale.methods import Method
from facscale.methods.base import total


def learned(method: Method, batch: Batch, *, steps: int, lr: float) -> list[dict[str, float]]:
    """Train all phases of a method together, with Adam; its losses of every step, and their weighted sum as "total"."""
    update = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr)
    history = []
    for _ in range(steps):
        losses = {name: loss for phase in method.phases() for name, loss in getattr(method, phase)(batch).items()}
        update.zero_grad()
        total(losses).backward()
        update.step()
        method.after_step()
        history.append({name: loss.value.item() for name, loss in losses.items()} | {"total": total(losses).item()})
    return history
