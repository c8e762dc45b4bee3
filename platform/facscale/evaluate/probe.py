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
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from facscale.data.labels import compute_label_weights
from facscale.evaluate.solver import train_probe
from facscale.nn.heads import LinearProbe
from facscale.spec.models import Probe

RANDOM_LOCK = Lock()  # torch draws first weights from the process's generator


def fit_probe(
    features: np.ndarray | Tensor,
    *,
    au: np.ndarray,
    probe: Probe,
    seed: int,
    device: torch.device | str = "cpu",
) -> LinearProbe:
    """Train a probe on features [N, D] and labels [N, n] with Adam on shuffled minibatches; the same seed, the same probe.

    Frames without any label are left out. Returns the probe in evaluation mode. Raises ValueError for fewer than 2 frames.
    """
    labelled = torch.from_numpy((au >= 0).any(axis=1))
    x = torch.as_tensor(features)[labelled].to(device, torch.float32)
    y = torch.from_numpy(np.ascontiguousarray(au)).to(torch.int8)[labelled].to(device)
    if len(x) < 2:
        raise ValueError(f"a probe needs at least 2 labelled frames, here are {len(x)}")
    random = torch.Generator().manual_seed(seed)
    model = _create_probe(dim=x.shape[1], aus=y.shape[1], seed=seed).to(device)
    weights = torch.from_numpy(compute_label_weights(au, weighting=probe.weighting)).to(device)
    train_probe(model, x=x, y=y, weights=weights, probe=probe, random=random)
    return model.eval()


def fit_folds(fit: Callable[[int], LinearProbe], folds: Collection[int]) -> dict[int, LinearProbe]:
    """Fit the probes of several folds, as many at a time as there are cores for: each takes two. By number of the fold."""
    workers = max(1, min(len(folds), len(os.sched_getaffinity(0)) // 2))
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(folds, pool.map(fit, folds), strict=True))


@torch.no_grad()
def predict_probabilities(model: nn.Module, *, features: np.ndarray | Tensor, batch_size: int = 8192) -> np.ndarray:
    """Probabilities [N, n] float32 in [0, 1] of features [N, D]."""
    device = next(model.parameters()).device
    batches = torch.split(torch.as_tensor(features), batch_size)
    return torch.cat([torch.sigmoid(model(batch.to(device, torch.float32))).cpu() for batch in batches]).numpy()


def _create_probe(*, dim: int, aus: int, seed: int) -> LinearProbe:
    """An untrained probe. Leaves the process's own generator alone: probing a training must not change it."""
    with RANDOM_LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearProbe(dim=dim, aus=aus)
