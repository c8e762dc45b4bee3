"""Contrastive losses against loop-by-loop versions in float64, and their gradients by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from facscale.nn import info_nce, nt_xent, soft_neighbours


def unit(*shape, seed):
    random = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


def dot(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_simclrs_eq_1(temperature):
    first, second = unit(5, 4, seed=0), unit(5, 4, seed=1)
    z = [*first, *second]
    terms = []
    for i in range(10):
        j = (i + 5) % 10
        below = sum(math.exp(dot(z[i], z[k]) / temperature) for k in range(10) if k != i)
        terms.append(-math.log(math.exp(dot(z[i], z[j]) / temperature) / below))
    assert nt_xent(first, second, temperature=temperature).item() == pytest.approx(sum(terms) / 10, abs=1e-12)


def test_gradient_of_nt_xent():
    first, second = unit(3, 4, seed=0).requires_grad_(), unit(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.3), (first, second))


@pytest.mark.parametrize("masked", [False, True])
def test_info_nce_is_mocos_eq_1(masked):
    queries, positives, negatives = unit(3, 4, seed=0), unit(3, 4, seed=1), unit(6, 4, seed=2)
    may = torch.rand(3, 6, generator=torch.Generator().manual_seed(3)) < (0.5 if masked else 1.1)
    expected = 0.0
    for b in range(3):
        own = math.exp(dot(queries[b], positives[b]) / 0.2)
        others = sum(math.exp(dot(queries[b], negatives[m]) / 0.2) for m in range(6) if may[b, m])
        expected -= math.log(own / (own + others)) / 3
    result = info_nce(queries, positives, negatives, temperature=0.2, may_repel_BM=may if masked else None)
    assert result.item() == pytest.approx(expected, abs=1e-12)


def test_info_nce_without_negatives_is_0():
    assert info_nce(unit(3, 4, seed=0), unit(3, 4, seed=1), torch.empty(0, 4).double(), temperature=0.1).item() == 0


@pytest.mark.parametrize("masked", [False, True])
def test_soft_neighbours_are_weighted_by_similarity(masked):
    queries, keys = unit(3, 4, seed=0), unit(6, 4, seed=1)
    may = torch.ones(3, 6, dtype=torch.bool)
    may[:, 1::2] = not masked
    result = soft_neighbours(queries, keys, temperature=0.2, may_neighbour_BM=may if masked else None)
    for b in range(3):
        usable = [m for m in range(6) if may[b, m]]
        weights = [math.exp(dot(queries[b], keys[m]) / 0.2) for m in usable]
        rebuilt = [sum(w * keys[m][d].item() for w, m in zip(weights, usable, strict=True)) for d in range(4)]
        length = math.hypot(*rebuilt)
        assert result[b].tolist() == pytest.approx([value / length for value in rebuilt], abs=1e-12)


def test_gradient_of_soft_neighbours():
    queries = unit(2, 4, seed=0).requires_grad_()
    keys = unit(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda q: soft_neighbours(q, keys, temperature=0.3), (queries,))
