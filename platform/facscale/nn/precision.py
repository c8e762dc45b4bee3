"""What stays in float32 under autocast: positions, displacements, warps, colours and similarities over a temperature.

bfloat16 has 8 significant bits. A position in an image of 256 pixels is then wrong by up to half a pixel, and a
similarity of 1 over a temperature of 0.07 by 0.03.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

HALF_PRECISION = (torch.bfloat16, torch.float16)


def disable_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on the device of `like` keep the type of their inputs."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def widen(values: Tensor) -> Tensor:
    """Convert half precision to float32; float32 and float64 stay as they are."""
    return values.float() if values.dtype in HALF_PRECISION else values


def apply_widened(module: nn.Module, values: Tensor) -> Tensor:
    """Apply a module without autocast, to inputs of float32 at least. Its weights are float32 (or float64)."""
    with disable_autocast(values):
        result: Tensor = module(widen(values))
    return result


class WidenedSequential(nn.Sequential):
    """Layers that run in float32 under autocast: `apply_widened` to a sequence, with the same parameter names."""

    def forward(self, values: Tensor) -> Tensor:
        """As nn.Sequential."""
        with disable_autocast(values):
            result: Tensor = super().forward(widen(values))  # type: ignore[no-untyped-call]
        return result
