"""Facial image retrieval: the frames of other people that show the same facial actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

QUERIES = 2000  # frames asked about, at most


def nearest(features: np.ndarray, *, queries: np.ndarray, allowed: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar (cosine) of features [N, D] for queries [Q, D]: indices and similarities [Q, k].

    allowed [Q, N] says which of them may answer; where fewer than k may, the rest has similarity -inf.
    """
    similar = normalize(torch.from_numpy(queries), dim=1) @ normalize(torch.from_numpy(features), dim=1).T
    similar.masked_fill_(~torch.from_numpy(allowed), -torch.inf)
    values, indices = similar.topk(min(k, features.shape[0]), dim=1)
    return indices.numpy(), values.numpy()


def recall(
    features: np.ndarray, *, au: np.ndarray, identity: np.ndarray, ks: Sequence[int] = (1, 5, 10), seed: int = 0
) -> dict[str, float]:
    """Share of queries that find, among the k nearest frames of other people, one with exactly their AUs, by "recall@k".

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
    return {f"recall@{k}": float(hits[:, :k].any(axis=1).mean()) for k in ks}
