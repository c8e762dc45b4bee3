"""Is the encoder learning, or collapsing? Cheap numbers on a few hundred labelled frames, during training. torch only.

    std              mean over dimensions of the standard deviation of L2-normalised features, times sqrt(D): 1 for
                     features spread evenly over the sphere, 0 after collapse (Chen & He, SimSiam, 2021, Fig. 2)
    effective_rank   exp of the entropy of the normalised singular values (Roy & Vetterli, 2007; used for collapse by
                     Garrido et al., RankMe, 2023): 1..D, how many dimensions are in use
    alignment        mean squared distance of positive pairs on the sphere: 0..4, lower is better (Wang & Isola, 2020)
    uniformity       log of the mean of exp(-2 squared distance) over all pairs: -8..0, lower is more uniform (ibid.)
    alignment_uniformity  their sum, lower is better: what they are together worth without labels (ibid., section 5)
    knn/f1           F1 of nearest neighbours, tested on people that are not among the neighbours
    probe/f1         F1 of the linear probe, the same people

All but the last two need no labels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pdist

from facscale.evaluate.f1 import count, mean
from facscale.evaluate.probe import fit_probe, predict
from facscale.evaluate.subjects import frames_of
from facscale.spec.models import Probe

NEIGHBOURS = 20
QUICK = Probe(epochs=20, batch_size=128)


def diagnose(
    features: Tensor, *, au: np.ndarray, identity: np.ndarray, positives: Tensor | None = None, seed: int = 0,
    threshold: float = 0.5,
) -> dict[str, float]:  # fmt: skip
    """All numbers of this module by name; those that cannot be had (one subject, no positives) are left out.

    features [N, D]; au [N, n] in {0, 1, -1}; identity [N]; positives [N, D] are features of a second augmented copy of
    the same frames, for `alignment`. One subject in three is tested, drawn by `seed`.
    """
    features = features.detach().float().cpu()
    found = {"std": spread(features), "effective_rank": effective_rank(features), "uniformity": uniformity(features)}
    if positives is not None:
        found["alignment"] = alignment(features, positives=positives.detach().float().cpu())
        found["alignment_uniformity"] = found["alignment"] + found["uniformity"]
    if not au.shape[1]:
        return found
    train, test = _parts(identity, seed=seed)
    if len(train) > 1 and len(test):
        near = knn(features[train], au=au[train], queries=features[test])
        found["knn/f1"] = float(mean(count(probability=near, au=au[test], threshold=threshold).f1))
        quick = predict(fit_probe(features[train], au=au[train], probe=QUICK, seed=seed), features=features[test])
        found["probe/f1"] = float(mean(count(probability=quick, au=au[test], threshold=threshold).f1))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def spread(features: Tensor) -> float:
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


def knn(features: Tensor, *, au: np.ndarray, queries: Tensor, k: int = NEIGHBOURS) -> np.ndarray:
    """Probabilities [Q, n] of queries [Q, D] from their k most similar (cosine) features [N, D] with labels au [N, n].

    Votes weigh inversely to class frequency, as in the probe: 0.5 is reached where an AU is as frequent among the
    neighbours as in all N frames. Unlabelled neighbours do not vote; with no vote at all the answer is 0.
    """
    similar = normalize(queries, dim=1) @ normalize(features, dim=1).T
    nearest = similar.topk(min(k, len(features)), dim=1).indices
    votes = torch.from_numpy(np.ascontiguousarray(au))[nearest]  # [Q, k, n]
    positive, negative = (votes == 1).sum(dim=1), (votes == 0).sum(dim=1)
    everywhere = torch.from_numpy(np.stack([(au == 1).sum(axis=0), (au == 0).sum(axis=0)])).clamp(min=1)
    for_it, against = positive / everywhere[0], negative / everywhere[1]
    return (for_it / (for_it + against).clamp(min=1e-12)).float().numpy()


def _parts(identity: np.ndarray, *, seed: int) -> list[np.ndarray]:
    """Frames to train on and frames of other people to test on."""
    people = np.random.default_rng(seed).permutation(np.unique(identity))
    test = people[: max(1, len(people) // 3)]
    return [frames_of(set(people) - set(test), identity=identity), frames_of(set(test), identity=identity)]
