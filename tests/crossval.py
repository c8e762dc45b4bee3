"""A slow, plain cross-validation of frozen features, to compare the product with: one probe per fold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from facscale.data.folds import Split
from facscale.evaluate.f1 import ConfusionCounts, count_confusions
from facscale.evaluate.probe import fit_probe, predict_probabilities
from facscale.evaluate.scores import MethodScores
from facscale.evaluate.subjects import find_frames
from facscale.report.f1_table import F1Table
from facscale.spec.models import Probe


def cross_validate(
    features: np.ndarray,
    *,
    au: np.ndarray,
    identity: np.ndarray,
    aus: Sequence[int],
    split: Split,
    name: str,
    probe: Probe | None = None,
    threshold: float = 0.5,
    seed: int = 0,
) -> F1Table:
    """Train and test a linear probe on every fold.

    features [N, D] float32; au [N, n] in {0, 1, -1}; identity [N], the subject of each frame; aus: the n AU numbers.
    Returns a table of one row. Raises ValueError where a fold has nothing to train or test on.
    """
    counts = []
    for fold in split:
        train, test = find_frames(fold.train, identity=identity), find_frames(fold.test, identity=identity)
        if not len(train) or not len(test):
            raise ValueError(
                f"{fold.name} has {len(train)} frames to train on and {len(test)} to test on; it needs both"
            )
        fit = partial(fit_probe, probe=probe or Probe(), seed=seed + fold.index)
        model = fit(features[train], au=au[train])
        counts.append(
            count_confusions(
                probability=predict_probabilities(model, features=features[test]), au=au[test], threshold=threshold
            )
        )
    names = [fold.name for fold in split]
    return F1Table(
        (
            MethodScores.from_counts(
                name, aus=aus, counts=ConfusionCounts.stack(counts), folds=names, source=split.source
            ),
        )
    )
