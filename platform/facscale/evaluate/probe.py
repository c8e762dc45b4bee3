"""The linear probe of the field's protocol: BatchNorm1d and a bias-free linear layer on frozen features.

Li & Shan (CLP), section IV.A, after TCAE: binary cross-entropy for each AU, "reweighted ... inversely proportional to
the AU class frequencies". Neither paper gives the formula, so `evaluate.probe.weighting` chooses one (the formulas are
those of `data.labels.compute_label_weights`): "class" weighs the positives and the negatives of each AU inversely to how
often they occur, "au" weighs whole AUs as JAA-Net, ME-GraphAU and AUNet do, "none" weighs nothing. The layers of
different AUs share nothing but BatchNorm's gain and shift, and Adam is indifferent to the scale of a gradient, so "au"
hardly changes this probe; "class" is the default because it is the reading that has an effect.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from facscale.data.labels import compute_label_weights
from facscale.evaluate.solver import ProbeFit, Slope, slope_cross_entropy, train_probes
from facscale.nn.heads import LinearProbe
from facscale.spec.models import Probe

RANDOM_LOCK = Lock()  # torch draws first weights from the process's generator


def fit_probe(features: np.ndarray | Tensor, *, au: np.ndarray, probe: Probe, seed: int) -> LinearProbe:
    """Train a probe on features [N, D] and labels [N, n] with Adam on shuffled minibatches; the same seed, the same probe.

    Frames without any label are left out. Returns the probe in evaluation mode. Raises ValueError for fewer than 2 frames.
    """
    return fit_probes(features, au=au, rows={seed: np.arange(len(au))}, probe=probe)[seed]


def fit_probes(
    features: np.ndarray | Tensor, *, au: np.ndarray, rows: Mapping[int, np.ndarray], probe: Probe
) -> dict[int, LinearProbe]:
    """Train several probes as `fit_probe`, each on some frames of the same features.

    rows: the numbers of the frames of each probe, by its seed, as are the results. The probes take their steps together,
    in as many groups at a time as there are cores for: each takes two. Raises ValueError as `fit_probe`.
    """
    weigh = partial(compute_label_weights, weighting=probe.weighting)
    return fit_together(features, labels=au, rows=rows, probe=probe, weigh=weigh, slope=slope_cross_entropy)


def fit_together(
    features: np.ndarray | Tensor,
    *,
    labels: np.ndarray,
    rows: Mapping[int, np.ndarray],
    probe: Probe,
    weigh: Callable[[np.ndarray], np.ndarray],
    slope: Slope,
    kind: str = "labelled frames",
) -> dict[int, LinearProbe]:
    """As `fit_probes`, for labels [N, n] of any kind, below 0 where there is none.

    weigh: the weights [2, n] of negatives and positives, from the labels of a probe; slope: of the loss; kind: how the
    error calls what is labelled.
    """
    # What Ray hands over is read-only, which torch does not take: such features are copied, once for all probes.
    if not isinstance(features, Tensor):
        features = torch.from_numpy(np.require(features, np.float32, ["C", "W"]))
    x = features.to(torch.float32)
    y = torch.from_numpy(np.require(labels, None, ["C", "W"]))

    def begin(seed: int, chosen: np.ndarray) -> ProbeFit:
        labelled = chosen[(labels[chosen] >= 0).any(axis=1)]
        if len(labelled) < 2:
            raise ValueError(f"a probe needs at least 2 {kind}, here are {len(labelled)}")
        weights = torch.from_numpy(weigh(labels[labelled]))
        model = create_probe(dim=x.shape[1], aus=labels.shape[1], seed=seed)
        return ProbeFit(model, torch.from_numpy(labelled), weights, torch.Generator().manual_seed(seed))

    fits = {seed: begin(seed, chosen) for seed, chosen in rows.items()}
    groups = max(1, min(len(fits), len(os.sched_getaffinity(0)) // 2))
    parts = [list(fits.values())[group::groups] for group in range(groups)]
    try:
        with ThreadPoolExecutor(groups) as pool:
            list(pool.map(lambda part: train_probes(part, x=x, y=y, probe=probe, slope=slope), parts))
    finally:  # the number of cores belongs to a thread, but new threads start with the number that was set last
        torch.set_num_threads(torch.get_num_threads())
    return {seed: fit.model.eval() for seed, fit in fits.items()}


@torch.no_grad()
def predict_probabilities(model: nn.Module, *, features: np.ndarray | Tensor, batch_size: int = 8192) -> np.ndarray:
    """Probabilities [N, n] float32 in [0, 1] of features [N, D]."""
    device = next(model.parameters()).device
    batches = torch.split(torch.as_tensor(features), batch_size)
    return torch.cat([torch.sigmoid(model(batch.to(device, torch.float32))).cpu() for batch in batches]).numpy()


def create_probe(*, dim: int, aus: int, seed: int) -> LinearProbe:
    """An untrained probe. Leaves the process's own generator alone: probing a training must not change it."""
    with RANDOM_LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearProbe(dim=dim, aus=aus)
