"""A slow, plain cross-validation of frozen features, which the tests compare the product with: one probe a fold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from facscale.data.folds import Split
from facscale.evaluate.f1 import Counts, count
from facscale.evaluate.probe import Weighting, fit_probe, predict
from facscale.evaluate.scores import Row
from facscale.evaluate.subjects import frames_of
from facscale.report.table import Table
from facscale.spec.models import Probe


def cross_validate(
    features: np.ndarray, *, au: np.ndarray, identity: np.ndarray, aus: Sequence[int], split: Split, name: str,
    probe: Probe | None = None, threshold: float = 0.5, seed: int = 0, weighting: Weighting = "class",
    device: torch.device | str = "cpu",
) -> Table:  # fmt: skip
    """Train and test a linear probe on every fold.

    features [N, D] float32; au [N, n] in {0, 1, -1}; identity [N], the subject of each frame; aus: the n AU numbers.
    Returns a table of one row. Raises ValueError where a fold has nothing to train or test on.
    """
    counts = []
    for fold in split:
        train, test = frames_of(fold.train, identity=identity), frames_of(fold.test, identity=identity)
        if not len(train) or not len(test):
            raise ValueError(
                f"{fold.name} has {len(train)} frames to train on and {len(test)} to test on; it needs both"
            )
        fit = partial(fit_probe, probe=probe or Probe(), seed=seed + fold.index, weighting=weighting, device=device)
        model = fit(features[train], au=au[train])
        counts.append(count(probability=predict(model, features=features[test]), au=au[test], threshold=threshold))
    names = [fold.name for fold in split]
    return Table((Row.counted(name, aus=aus, counts=Counts.stack(counts), folds=names, source=split.source),))
