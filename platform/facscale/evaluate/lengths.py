"""How far methods that move pixels move them, on pairs of frames (TCAE, section 4.4, Figure 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from facscale.data.views import Batch
from facscale.methods import Method


@torch.no_grad()
def lengths(method: Method, batches: Iterable[Batch], *, pairs: int) -> dict[str, np.ndarray]:
    """The mean length over all pixels of each movement that `method` tells: [pairs] by name, where an image is 2 long.

    batches: of one view "pair" with two frames a sample, in [0, 1], where the method is; more than `pairs` are left over.
    """
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    seen = 0
    for batch in batches:
        if seen >= pairs:
            break
        source, target = batch.pair.images[:, :, 0].unbind(1)
        for name, movement in method.movements(source, target).items():
            of_pixels = movement.norm(dim=1) * 2 / (movement.shape[-1] - 1)
            found[name].append(of_pixels.mean((1, 2)).float().cpu().numpy())
        seen += len(source)
    return {name: np.concatenate(parts)[:pairs] for name, parts in found.items()}
