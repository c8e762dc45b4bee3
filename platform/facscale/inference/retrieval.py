"""Facial image retrieval: the frames of other people that show the same facial actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

QUERIES = 2000  # frames asked about, at most
BLOCK = 10_000  # features that are normalised, and so copied, at a time


def nearest(
    features: np.ndarray, *, queries: np.ndarray, allowed: np.ndarray, k: int, group: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar (cosine) of features [N, D] for queries [Q, D]: indices and similarities [Q, k].

    allowed [Q, N] says which of them may answer; of each `group` [N] only the best one does. Where fewer than k may
    answer, the rest has similarity -inf.
    """
    asked = normalize(torch.from_numpy(queries), dim=1)
    similar = torch.empty(len(queries), len(features), dtype=asked.dtype)
    for first in range(0, len(features), BLOCK):
        part = slice(first, first + BLOCK)
        similar[:, part] = asked @ normalize(torch.tensor(features[part]), dim=1).T
    similar.masked_fill_(~torch.from_numpy(allowed), -torch.inf)
    if group is not None:
        for row in similar:
            row.masked_fill_(torch.from_numpy(~best_of_each(row.numpy(), group)), -torch.inf)
    values, indices = similar.topk(min(k, features.shape[0]), dim=1)
    return indices.numpy(), values.numpy()


def best_of_each(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Which of values [N] are the greatest of their group [N]: bool [N], one a group."""
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(group[order], return_index=True)
    best = np.zeros(len(values), bool)
    best[order[first]] = True
    return best


def recall(
    features: np.ndarray, *, au: np.ndarray, identity: np.ndarray, ks: Sequence[int] = (1, 5, 10), seed: int = 0
) -> dict[str, float]:
    """Share of queries that find, among the k nearest frames of other people, one with exactly their AUs, by "recall/at_k".

    features [N, D]; au [N, n] in {0, 1, -1}; identity [N]. Asked are at most `QUERIES` frames, drawn by `seed`, that are
    labelled whole, show an AU, and have such a frame at all. Empty where there is none.
    """
    whole = np.flatnonzero((au >= 0).all(axis=1))
    features, au, identity = features[whole], au[whole], identity[whole]
    active = np.random.default_rng(seed).permutation(np.flatnonzero(au.any(axis=1)))[:QUERIES]
    strangers = identity[active, None] != identity
    alike = (au[active, None] == au).all(axis=2) & strangers
    answerable = alike.any(axis=1)
    if not answerable.any():
        return {}
    asked = active[answerable]
    found, _ = nearest(features, queries=features[asked], allowed=strangers[answerable], k=max(ks))
    hits = np.take_along_axis(alike[answerable], found, axis=1)
    return {f"recall/at_{k}": float(hits[:, :k].any(axis=1).mean()) for k in ks}
