import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from facscale.evaluate.diagnostics import alignment, diagnose, effective_rank, feature_std, predict_knn, uniformity


@pytest.fixture
def features():
    return torch.randn(30, 8, generator=torch.Generator().manual_seed(0))


def sphere(features):
    return [row / np.linalg.norm(row) for row in features.double().numpy()]


def test_alignment_and_uniformity_are_the_papers_sums(features):
    other = features + 0.3 * torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    x, y = sphere(features), sphere(other)
    assert alignment(features, positives=other) == pytest.approx(
        np.mean([np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)]), rel=1e-5
    )
    pairs = [math.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(30) for j in range(i)]
    assert uniformity(features) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)


def test_effective_rank_by_hand(features):
    values = np.sqrt(np.linalg.eigvalsh((features.T @ features).double().numpy()))
    share = values / values.sum()
    assert effective_rank(features) == pytest.approx(math.exp(-np.sum(share * np.log(share))), rel=1e-4)
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(5, 3)) == 0


def test_std_is_one_on_the_sphere_and_zero_after_collapse():
    wide = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_std(wide) == pytest.approx(1, abs=0.02)
    assert feature_std(torch.ones(10, 64)) == pytest.approx(0, abs=1e-6)


def test_neighbours_are_a_slow_loop():
    random = np.random.default_rng(0)
    known, asked = random.normal(size=(40, 5)), random.normal(size=(7, 5))
    au = random.integers(-1, 2, size=(40, 2)).astype(np.int8)
    found = predict_knn(torch.tensor(known), au=au, queries=torch.tensor(asked), k=9)
    for query in range(7):
        cosine = [row @ asked[query] / np.linalg.norm(row) for row in known]
        near = np.argsort(cosine)[-9:]
        for number in range(2):
            yes = sum(au[near, number] == 1) / sum(au[:, number] == 1)
            no = sum(au[near, number] == 0) / sum(au[:, number] == 0)
            assert found[query, number] == pytest.approx(yes / (yes + no) if yes + no else 0)


def test_a_neighbourhood_like_everywhere_is_undecided():
    au = np.array([[1], [0], [0], [0]], np.int8)
    assert predict_knn(torch.eye(4), au=au, queries=torch.ones(1, 4), k=4).item() == pytest.approx(0.5)


def test_diagnose_sees_learning_and_collapse():
    random = np.random.default_rng(0)
    identity = np.array([f"id{number}" for number in range(9)]).repeat(30)
    au = (random.random((270, 2)) < 0.4).astype(np.int8)
    good = torch.tensor(np.concatenate([3 * au, random.normal(size=(270, 6))], axis=1), dtype=torch.float32)
    found = diagnose(good, au=au, identity=identity, positives=good)
    assert set(found) == {
        "std",
        "effective_rank",
        "uniformity",
        "alignment",
        "alignment_uniformity",
        "knn/f1",
        "probe/f1",
    }
    assert found["probe/f1"] > 0.9
    assert found["knn/f1"] > 0.8
    assert found["alignment"] == 0
    assert found["alignment_uniformity"] == found["uniformity"]
    collapsed = diagnose(torch.ones(270, 8) + 1e-4 * good[:, :8], au=au, identity=identity)
    assert collapsed["std"] < 0.01
    assert collapsed["effective_rank"] < 1.1
    assert collapsed["uniformity"] > -0.01


def test_what_cannot_be_had_is_left_out():
    found = diagnose(torch.randn(20, 4), au=np.zeros((20, 1), np.int8), identity=np.array(["only"] * 20))
    assert set(found) == {"std", "effective_rank", "uniformity"}
    unlabelled = diagnose(torch.randn(20, 4), au=np.zeros((20, 0), np.int8), identity=np.arange(20).astype(str))
    assert set(unlabelled) == {"std", "effective_rank", "uniformity"}


def test_the_tested_people_are_others():
    """With features that name the person and labels that are the person's, nothing can be learned across people."""
    identity = np.array([f"id{number}" for number in range(12)]).repeat(20)
    features = torch.eye(12).repeat_interleave(20, 0) + 0.01 * torch.randn(
        240, 12, generator=torch.Generator().manual_seed(0)
    )
    au = (np.arange(12) % 2).repeat(20)[:, None].astype(np.int8)
    found = diagnose(features, au=au, identity=identity)
    assert found["knn/f1"] < 0.9
    same = predict_knn(features, au=au, queries=features)
    assert f1_score(au[:, 0], same[:, 0] >= 0.5) == 1
