"""One small batch, learned by heart."""

from __future__ import annotations

import torch

from facscale.data.views import Batch
from facscale.methods import Method
from facscale.methods.base import total


def learned(method: Method, batch: Batch, *, steps: int, lr: float) -> list[dict[str, float]]:
    """Train every phase's own submodules with Adam; the losses of every step, and their weighted sum as "total"."""
    update = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr)
    history = []
    for _ in range(steps):
        losses = {}
        update.zero_grad()
        for phase, modules in method.phases().items():
            parameters = [p for name in modules for p in method.get_submodule(name).parameters() if p.requires_grad]
            losses |= (found := getattr(method, phase)(batch))
            if found:
                total(found).backward(inputs=parameters)
        update.step()
        method.after_step()
        history.append({name: loss.value.item() for name, loss in losses.items()} | {"total": total(losses).item()})
    return history
