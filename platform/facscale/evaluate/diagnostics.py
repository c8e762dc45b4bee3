"""Is the encoder learning, or collapsing? Cheap metrics on a few hundred labelled frames, during training. torch only.

    std              mean over dimensions of the standard deviation of L2-normalised features, times sqrt(D): 1 for
                     features spread evenly over the sphere, 0 after collapse (Chen & He, SimSiam, 2021, Fig. 2)
    effective_rank   exp of the entropy of the normalised singular values (Roy & Vetterli, 2007; used for collapse by
                     Garrido et al., RankMe, 2023): 1..D, how many dimensions are in use
    alignment        mean squared distance of positive pairs on the sphere: 0..4, lower is better (Wang & Isola, 2020)
    uniformity       log of the mean of exp(-2 squared distance) over all pairs: -8..0, lower is more uniform (ibid.)
    alignment_uniformity  their sum, lower is better: a quality measure without labels (ibid., section 5)
    knn/f1           F1 of nearest neighbours, tested on people who are not among the neighbours
    probe/f1         F1 of the linear probe, the same people

All but the last two need no labels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pdist

from facscale.evaluate.f1 import count_confusions, nanmean
from facscale.evaluate.probe import fit_probe, predict_probabilities
from facscale.evaluate.subjects import find_frames
from facscale.spec.models import Probe

NEIGHBOURS = 20
QUICK_PROBE = Probe(epochs=20, batch_size=128)


def diagnose(
    features: Tensor,
    *,
    au: np.ndarray,
    identity: np.ndarray,
    positives: Tensor | None = None,
    seed: int = 0,
    threshold: float = 0.5,
) -> dict[str, float]:
    """All metrics of this module by name; those that cannot be computed (one subject, no positives) are left out.

    features [N, D]; au [N, n] in {0, 1, -1}; identity [N]; positives [N, D] are features of a second augmented copy of
    the same frames, for `alignment`. One subject in three is tested, drawn by `seed`.
    """
    features = features.detach().float().cpu()
    metrics = {
        "std": feature_std(features),
        "effective_rank": effective_rank(features),
        "uniformity": uniformity(features),
    }
    if positives is not None:
        metrics["alignment"] = alignment(features, positives=positives.detach().float().cpu())
        metrics["alignment_uniformity"] = metrics["alignment"] + metrics["uniformity"]
    if not au.shape[1]:
        return metrics
    train, test = _split_frames(identity, seed=seed)
    if len(train) > 1 and len(test):
        probe = fit_probe(features[train], au=au[train], probe=QUICK_PROBE, seed=seed)
        predictions = {
            "knn/f1": predict_knn(features[train], au=au[train], queries=features[test]),
            "probe/f1": predict_probabilities(probe, features=features[test]),
        }
        for name, probability in predictions.items():
            counts = count_confusions(probability=probability, au=au[test], threshold=threshold)
            metrics[name] = float(nanmean(counts.f1))
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def feature_std(features: Tensor) -> float:
    """Mean over dimensions of std(features / |features|) * sqrt(D), for features [N, D]: in [0, 1]."""
    return float(normalize(features, dim=1).std(dim=0, correction=0).mean() * features.shape[1] ** 0.5)


def effective_rank(features: Tensor) -> float:
    """exp(-sum p ln p) with p = singular values / their sum, for features [N, D]: in [1, min(N, D)]; 0 if all are 0."""
    values = torch.linalg.svdvals(features.double())
    if not values.sum() > 0:
        return 0.0
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def alignment(features: Tensor, *, positives: Tensor) -> float:
    """Mean of |f(x) - f(y)|^2 over positive pairs (x, y), both [N, D], normalised: in [0, 4]."""
    return float((normalize(features, dim=1) - normalize(positives, dim=1)).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float:
    """Log of the mean of exp(-2 |f(x) - f(y)|^2) over all pairs of different rows of features [N, D], normalised."""
    return float(pdist(normalize(features, dim=1)).square().mul(-2).exp().mean().log())


def predict_knn(features: Tensor, *, au: np.ndarray, queries: Tensor, k: int = NEIGHBOURS) -> np.ndarray:
    """Probabilities [Q, n] of queries [Q, D] from their k most similar (cosine) features [N, D] with labels au [N, n].

    Votes weigh inversely to class frequency, as in the probe: 0.5 is reached where an AU is as frequent among the
    neighbours as in all N frames. Unlabelled neighbours do not vote; without any vote the probability is 0.
    """
    similarity = normalize(queries, dim=1) @ normalize(features, dim=1).T
    nearest = similarity.topk(min(k, len(features)), dim=1).indices
    votes = torch.from_numpy(np.ascontiguousarray(au))[nearest]  # [Q, k, n]
    positive, negative = (votes == 1).sum(dim=1), (votes == 0).sum(dim=1)
    totals = torch.from_numpy(np.stack([(au == 1).sum(axis=0), (au == 0).sum(axis=0)])).clamp(min=1)
    share_for, share_against = positive / totals[0], negative / totals[1]
    return (share_for / (share_for + share_against).clamp(min=1e-12)).float().numpy()


def _split_frames(identity: np.ndarray, *, seed: int) -> list[np.ndarray]:
    """Numbers of frames to train on, and of frames of other people to test on."""
    people = np.random.default_rng(seed).permutation(np.unique(identity))
    test = people[: max(1, len(people) // 3)]
    return [find_frames(set(people) - set(test), identity=identity), find_frames(set(test), identity=identity)]
