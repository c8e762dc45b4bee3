"""Facial image retrieval: frames of other people that show the same facial actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

MAX_QUERIES = 2000
BLOCK = 10_000  # features that are normalised, and so copied, at a time


def find_nearest(
    features: np.ndarray, *, queries: np.ndarray, allowed: np.ndarray, k: int, group: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k features of [N, D] most similar (cosine) to queries [Q, D]: indices and similarities [Q, k].

    allowed [Q, N] marks the features that a query may retrieve; with `group` [N], only the best one of each group
    counts. If fewer than k remain, the other similarities are -inf.
    """
    if group is None:
        return search_blocks(features, queries=queries, mask_allowed=lambda block: allowed[:, block], k=k)
    unit_queries = normalize(torch.from_numpy(queries), dim=1)
    similarity = torch.empty(len(queries), len(features), dtype=unit_queries.dtype)
    for first in range(0, len(features), BLOCK):
        block = slice(first, first + BLOCK)
        similarity[:, block] = unit_queries @ normalize(torch.tensor(features[block]), dim=1).T
    similarity.masked_fill_(~torch.from_numpy(allowed), -torch.inf)
    for row in similarity:
        row.masked_fill_(torch.from_numpy(~mark_best_per_group(row.numpy(), group)), -torch.inf)
    values, indices = similarity.topk(min(k, features.shape[0]), dim=1)
    return indices.numpy(), values.numpy()


def search_blocks(
    features: np.ndarray, *, queries: np.ndarray, mask_allowed: Callable[[slice], np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `find_nearest` without groups, in memory that does not grow with N: the best so far meet one block at a time.

    `mask_allowed` returns the columns of `allowed` [Q, N] for a block of features.
    """
    unit_queries = normalize(torch.from_numpy(queries), dim=1)
    values = torch.full((len(queries), 0), -torch.inf, dtype=unit_queries.dtype)
    indices = torch.zeros((len(queries), 0), dtype=torch.int64)
    for first in range(0, len(features), BLOCK):
        block = slice(first, min(first + BLOCK, len(features)))
        similarity = unit_queries @ normalize(torch.tensor(features[block]), dim=1).T
        similarity.masked_fill_(torch.from_numpy(~mask_allowed(block)), -torch.inf)
        best, places = similarity.topk(min(k, similarity.shape[1]), dim=1)
        values, indices = torch.cat([values, best], 1), torch.cat([indices, places + first], 1)
        values, places = values.topk(min(k, values.shape[1]), dim=1)
        indices = indices.gather(1, places)
    return indices.numpy(), values.numpy()


def mark_best_per_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mark the greatest of values [N] in each group [N]: bool [N], one of each group."""
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(group[order], return_index=True)
    best = np.zeros(len(values), bool)
    best[order[first]] = True
    return best


def number_rows(table: np.ndarray) -> np.ndarray:
    """Number the distinct rows of a table [N, n] of integers: int64 [N], equal where rows are equal."""
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def recall_at_k(
    features: np.ndarray, *, au: np.ndarray, identity: np.ndarray, ks: Sequence[int] = (1, 5, 10), seed: int = 0
) -> dict[str, float]:
    """Compute the share of queries that retrieve a frame of another person with exactly their AUs, by "recall/at_k".

    features [N, D]; au [N, n] in {0, 1, -1}; identity [N]. The queries are at most `MAX_QUERIES` frames, drawn with
    `seed`, that are fully labelled, show an AU, and have such a frame at all. Empty if there are none.
    """
    labelled = np.flatnonzero((au >= 0).all(axis=1))
    features, au, identity = features[labelled], au[labelled], identity[labelled]
    active = np.random.default_rng(seed).permutation(np.flatnonzero(au.any(axis=1)))[:MAX_QUERIES]
    actions, people = number_rows(au), np.unique(identity, return_inverse=True)[1]
    own = number_rows(np.stack([actions, people], axis=1))
    has_match = np.bincount(actions)[actions[active]] > np.bincount(own)[own[active]]  # not of this person alone
    queries = active[has_match]
    if not len(queries):
        return {}
    indices, _ = search_blocks(
        features,
        queries=features[queries],
        mask_allowed=lambda block: people[queries, None] != people[block],
        k=max(ks),
    )
    hits = (actions[indices] == actions[queries, None]) & (people[indices] != people[queries, None])
    return {f"recall/at_{k}": float(hits[:, :k].any(axis=1).mean()) for k in ks}
