"""Trains a method on one small batch until it overfits."""

from __future__ import annotations

import torch

from facscale.data.views import Batch
from facscale.methods import Method
from facscale.methods.base import sum_losses


def overfit(method: Method, batch: Batch, *, steps: int, lr: float) -> list[dict[str, float]]:
    """Train every phase's own submodules with Adam; returns the losses of every step, and their weighted sum as "total"."""
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr)
    history = []
    for _ in range(steps):
        losses = {}
        optimizer.zero_grad()
        for phase, modules in method.phases().items():
            parameters = [p for name in modules for p in method.get_submodule(name).parameters() if p.requires_grad]
            phase_losses = getattr(method, phase)(batch)
            losses |= phase_losses
            if phase_losses:
                sum_losses(phase_losses).backward(inputs=parameters)
        optimizer.step()
        method.after_step()
        values = {name: loss.value.item() for name, loss in losses.items()}
        history.append({**values, "total": sum_losses(losses).item()})
    return history
