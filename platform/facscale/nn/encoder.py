"""The interface of an encoder: what a method pre-trains, and what every evaluation and later stage uses."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """Images [N, 3, S, S] in [0, 1] -> features [N, dim]. It normalises its input itself."""

    dim: int
