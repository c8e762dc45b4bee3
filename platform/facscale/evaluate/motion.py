"""How far methods that move pixels move them, on pairs of frames (TCAE, section 4.4, Figure 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from facscale.data.views import Batch
from facscale.methods import Method


@torch.no_grad()
def measure_motion(method: Method, batches: Iterable[Batch], *, pairs: int) -> dict[str, np.ndarray]:
    """The mean length over all pixels of each motion that `method` predicts, [pairs] by name, where an image is 2 long.

    batches: of one view "pair" with two frames per sample, in [0, 1], on the method's device; samples after the first `pairs`
    are left out.
    """
    lengths: dict[str, list[np.ndarray]] = defaultdict(list)
    count = 0
    for batch in batches:
        if count >= pairs:
            break
        source, target = batch.pair.images[:, :, 0].unbind(1)
        for name, motion in method.predict_motion(source, target).items():
            by_pixel = motion.norm(dim=1) * 2 / (motion.shape[-1] - 1)
            lengths[name].append(by_pixel.mean((1, 2)).float().cpu().numpy())
        count += len(source)
    return {name: np.concatenate(parts)[:pairs] for name, parts in lengths.items()}
