"""Methods beside a first one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facscale.evaluate import adjacency_distance, bootstrap_difference, compare_methods, dependency_f1, paired_t_test
from predicted import make_pair


def test_comparison_holds_what_each_function_says():
    a, b = make_pair()
    rows = compare_methods([[a], [b]], threshold=0.5).rows
    assert [row.name for row in rows] == ["a", "b"]
    assert rows[0].test is rows[0].difference is None
    assert rows[1].test == paired_t_test(a, b)
    assert rows[1].difference == bootstrap_difference([a], [b], threshold=0.5)
    for row, method in zip(rows, (a, b), strict=True):
        assert row.f1 == pytest.approx(method.score(0.5).mean)
        assert row.distance == adjacency_distance(method, threshold=0.5)
        assert row.dependency == dependency_f1(method, threshold=0.5)


def test_f1_and_its_difference_are_of_all_seeds():
    seeds = [make_pair(seed=seed) for seed in (0, 0, 0)]
    noise = np.random.default_rng(0).normal(0, 0.2, (3, 90, 3))
    a, b = (
        [
            replace(one[side], probability=np.clip(one[side].probability + more, 0, 1))
            for one, more in zip(seeds, noise, strict=True)
        ]
        for side in (0, 1)
    )
    rows = compare_methods([a, b[:2]], threshold=0.5).rows
    assert rows[1].f1 == pytest.approx(np.mean([one.score(0.5).mean for one in b[:2]]))
    assert rows[1].difference.f1.value == pytest.approx(rows[1].f1 - rows[0].f1)
    assert rows[1].difference.seeds == (3, 2)
    assert rows[1].test == paired_t_test(a[0], b[0])
