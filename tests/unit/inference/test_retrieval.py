"""Retrieval on features whose nearest neighbours are known."""

from __future__ import annotations

import numpy as np
import pytest

from facscale.inference import retrieval
from facscale.inference.retrieval import find_nearest, recall_at_k


def test_recall_by_hand():
    features = np.array([[1.0, 0], [0.9, 0.1], [0.8, 0.3], [0, 1], [0.1, 1], [1, 1]])
    au = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [-1, 1]], np.int8)
    identity = np.array(["a", "a", "b", "b", "c", "c"])
    # 0 and 1 have no match among other people; 2 and 3 find 4, but 2 finds 0 and 1 first; 4 finds 3 first
    assert recall_at_k(features, au=au, identity=identity, ks=(1, 3)) == {
        "recall/at_1": pytest.approx(2 / 3),
        "recall/at_3": 1.0,
    }


def test_recall_does_not_depend_on_the_block(monkeypatch):
    """Against all similarities at once, with people and AUs drawn at random."""
    random = np.random.default_rng(0)
    features, identity = random.normal(size=(300, 8)), random.choice(list("abcdefg"), 300)
    au = random.integers(-1, 2, (300, 3), dtype=np.int8)
    results = []
    for block in (7, 64, 1000):
        monkeypatch.setattr(retrieval, "BLOCK", block)
        results.append(recall_at_k(features, au=au, identity=identity))
    assert results[0] == results[1] == results[2]
    queries = [row for row in range(300) if (au[row] >= 0).all() and au[row].any()]
    labelled = np.flatnonzero((au >= 0).all(axis=1))
    unit, hits = features / np.linalg.norm(features, axis=1, keepdims=True), {1: [], 5: [], 10: []}
    for row in queries:
        others = [other for other in labelled if identity[other] != identity[row]]
        matches = {other for other in others if (au[other] == au[row]).all()}
        ranked = sorted(others, key=lambda other: -unit[other] @ unit[row])
        for k in hits if matches else ():
            hits[k].append(bool(matches & set(ranked[:k])))
    assert results[0] == {f"recall/at_{k}": pytest.approx(np.mean(values)) for k, values in hits.items()}


def test_without_active_aus_there_is_no_recall():
    features = np.eye(3)
    assert recall_at_k(features, au=np.zeros((3, 2), np.int8), identity=np.array(["a", "b", "c"])) == {}


FEATURES = np.array([[3.0, 0], [2, 0.2], [1, 0.3], [1, 1], [0, 2]], np.float32)  # ever further from the first one


@pytest.mark.parametrize("block", [2, 100])
def test_the_nearest_by_angle_among_those_allowed(monkeypatch, block):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    FEATURES.setflags(write=False)  # as Arrow gives them
    allowed = np.array([[False, True, False, True, True], [False, False, False, False, True]])
    indices, similarity = find_nearest(FEATURES, queries=FEATURES[:2] * 5, allowed=allowed, k=2)
    assert indices[0].tolist() == [1, 3]
    assert similarity[0] == pytest.approx([1 / np.sqrt(1.01), np.sqrt(0.5)])
    assert indices[1, 0] == 4
    assert similarity[1, 1] == -np.inf, "no other feature is allowed"


def test_only_the_best_of_each_group_counts():
    allowed = np.array([[False, True, True, True, True], [True, False, True, True, True]])
    group = np.array(["a", "a", "a", "b", "b"])
    indices, similarity = find_nearest(FEATURES, queries=FEATURES[[0, 4]], allowed=allowed, k=3, group=group)
    assert indices[:, :2].tolist() == [[1, 3], [4, 2]], "the best of each group among those allowed"
    assert similarity[:, 2].tolist() == [-np.inf, -np.inf]
