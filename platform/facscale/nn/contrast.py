"""Contrastive losses over normalised embeddings, as several methods need them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from facscale.nn.workers import gathered_with_gradient, rank


def nt_xent(first_BD: Tensor, second_BD: Tensor, *, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of two copies [B, D] of each sample, among all workers' samples.

    ::

        l(i, j) = -log exp(sim(z_i, z_j) / T) / sum_{k != i} exp(sim(z_i, z_k) / T)

    averaged over both copies of this worker's samples. Source: Chen et al., SimCLR, arXiv 2002.05709, Eq. 1.
    """
    mine = torch.stack([first_BD, second_BD], dim=1)  # the copies of a sample stand side by side
    everyone = gathered_with_gradient(mine).flatten(0, 1)
    anchors = mine.flatten(0, 1)
    own = rank() * len(anchors) + torch.arange(len(anchors), device=anchors.device)
    scores = (anchors @ everyone.T / temperature).scatter(1, own[:, None], -torch.inf)
    return cross_entropy(scores, own ^ 1)


def info_nce(
    queries_BD: Tensor,
    positives_BD: Tensor,
    negatives_MD: Tensor,
    *,
    temperature: float,
    may_repel_BM: Tensor | None = None,
) -> Tensor:
    """-log exp(q k / T) / (exp(q k / T) + sum_n exp(q n / T)), averaged over the queries; the mask says who may use whom.

    Source: He et al., MoCo, arXiv 1911.05722, Eq. 1.
    """
    positive_B1 = (queries_BD * positives_BD).sum(1, keepdim=True) / temperature
    negative_BM = queries_BD @ negatives_MD.T / temperature
    if may_repel_BM is not None:
        negative_BM = negative_BM.masked_fill(~may_repel_BM, -torch.inf)
    return (torch.cat([positive_B1, negative_BM], 1).logsumexp(1) - positive_B1[:, 0]).mean()


def soft_neighbours(
    queries_BD: Tensor, neighbours_MD: Tensor, *, temperature: float, may_neighbour_BM: Tensor | None = None
) -> Tensor:
    """Each query rebuilt from its neighbours, weighted by softmax of their similarity, and normalised: [B, D].

    Source: Wu and Wang, "Contrastive Learning of Image Representations with Cross-Video Cycle-Consistency",
    arXiv 2105.06463; CLP's Eqs. 2 and 3.
    """
    scores_BM = queries_BD @ neighbours_MD.T / temperature
    if may_neighbour_BM is not None:
        scores_BM = scores_BM.masked_fill(~may_neighbour_BM, -torch.inf)
    return normalize(scores_BM.softmax(1) @ neighbours_MD, dim=-1)
