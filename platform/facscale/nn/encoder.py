"""What a method pre-trains, and everything after it uses."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """Images [N, 3, S, S] in [0, 1] -> features [N, dim]. It normalises its input itself."""

    dim: int
