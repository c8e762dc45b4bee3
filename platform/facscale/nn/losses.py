"""Losses that several methods share: contrastive ones over normalised embeddings, cross-entropy of partial labels.

All of them compute in float32 under autocast: a similarity in bfloat16, over a temperature of 0.07, would be wrong by
0.03. Suffixes of tensors: B samples of this worker, M keys, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from facscale.nn.distributed import all_gather_with_gradient, get_rank
from facscale.nn.precision import disable_autocast, widen


def nt_xent(first_BD: Tensor, second_BD: Tensor, *, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two copies [B, D] of each sample, against all workers' samples.

    ::

        l(i, j) = -log exp(sim(z_i, z_j) / T) / sum_{k != i} exp(sim(z_i, z_k) / T)

    averaged over both copies of this worker's samples. Source: Chen et al., SimCLR, arXiv 2002.05709, Eq. 1.
    """
    copies = torch.stack(
        [widen(first_BD), widen(second_BD)], dim=1
    )  # the two copies of a sample become neighbouring rows
    candidates = all_gather_with_gradient(copies).flatten(0, 1)
    anchors = copies.flatten(0, 1)
    anchor_rows = get_rank() * len(anchors) + torch.arange(len(anchors), device=anchors.device)
    with disable_autocast(copies):
        scores = (anchors @ candidates.T / temperature).scatter(1, anchor_rows[:, None], -torch.inf)
        return cross_entropy(scores, anchor_rows ^ 1)


def info_nce(
    queries_BD: Tensor,
    positives_BD: Tensor,
    negatives_MD: Tensor,
    *,
    temperature: float,
    may_repel_BM: Tensor | None = None,
    weights_B: Tensor | None = None,
) -> Tensor:
    """-log exp(q k / T) / (exp(q k / T) + sum_n exp(q n / T)), averaged over the queries.

    `may_repel_BM` marks the negatives that each query may use; without it, all of them. `weights_B`: of the queries in
    the sum that replaces the mean. Source: He et al., MoCo, arXiv 1911.05722, Eq. 1.
    """
    queries_BD, positives_BD, negatives_MD = widen(queries_BD), widen(positives_BD), widen(negatives_MD)
    with disable_autocast(queries_BD):
        positive_B1 = (queries_BD * positives_BD).sum(1, keepdim=True) / temperature
        negative_BM = queries_BD @ negatives_MD.T / temperature
        if may_repel_BM is not None:
            negative_BM = negative_BM.masked_fill(~may_repel_BM, -torch.inf)
        loss_B = torch.cat([positive_B1, negative_BM], 1).logsumexp(1) - positive_B1[:, 0]
        return loss_B.mean() if weights_B is None else (loss_B * weights_B).sum()


def soft_neighbours(
    queries_BD: Tensor, neighbours_MD: Tensor, *, temperature: float, may_neighbour_BM: Tensor | None = None
) -> Tensor:
    """Soft nearest neighbours [B, D]: the mean of the neighbours, weighted by softmax of their similarity, normalised.

    `may_neighbour_BM` marks the neighbours that each query may use; without it, all of them. Source: Wu and Wang,
    "Contrastive Learning of Image Representations with Cross-Video Cycle-Consistency", arXiv 2105.06463; CLP's Eqs. 2
    and 3.
    """
    queries_BD, neighbours_MD = widen(queries_BD), widen(neighbours_MD)
    with disable_autocast(queries_BD):
        scores_BM = queries_BD @ neighbours_MD.T / temperature
        if may_neighbour_BM is not None:
            scores_BM = scores_BM.masked_fill(~may_neighbour_BM, -torch.inf)
        return normalize(scores_BM.softmax(1) @ neighbours_MD, dim=-1)


def masked_mse(predicted: Tensor, *, target: Tensor) -> Tensor:
    """Mean squared error over the labelled entries of `target` [..., n]; those below 0 have neither loss nor gradient.

    Zero if nothing is labelled.
    """
    labelled = target >= 0
    squares = (predicted - target.to(predicted.dtype)).square() * labelled
    return squares.sum() / labelled.sum().clamp(min=1)


def masked_bce(logits: Tensor, *, au: Tensor, weights: Tensor) -> Tensor:
    """Mean weighted binary cross-entropy over the labelled entries; entries of -1 have neither loss nor gradient.

    logits [..., n]; au [..., n] in {0, 1, -1}; weights [2, n] of negatives and positives. Zero if nothing is labelled.
    """
    labelled, logits = au >= 0, widen(logits)
    weight = torch.where(au == 1, weights[1], weights[0]) * labelled
    loss = binary_cross_entropy_with_logits(
        logits, (au == 1).to(logits.dtype), weight=weight.to(logits.dtype), reduction="sum"
    )
    return loss / labelled.sum().clamp(min=1)
