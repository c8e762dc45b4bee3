"""Made-up predictions of methods, for tests of scores and comparisons."""

from __future__ import annotations

import numpy as np

from facscale.evaluate import ConfusionCounts, MethodScores, Predictions


def make_predictions(probability, au, *, name="ours", identity=None):
    """One fold, one video."""
    frames, aus = np.shape(au)
    return Predictions(
        name,
        tuple(range(1, aus + 1)),
        np.array(probability, np.float32),
        np.array(au, np.int8),
        np.array(identity if identity is not None else ["a"] * frames),
        np.full(frames, "v"),
        np.arange(frames, dtype=np.int32),
        np.zeros(frames, np.int8),
        ("fold0",),
    )


def make_pair(frames=90, *, seed=0):
    """Three AUs of nine people; the second method is a little better."""
    random = np.random.default_rng(seed)
    au = random.integers(-1, 2, (frames, 3), np.int8)
    au[0] = -1
    identity = [f"id{number}" for number in np.arange(frames) % 9]
    error = random.random((2, frames, 3)) * np.array([0.8, 0.7])[:, None, None]
    a, b = np.where(au == 1, 1 - error, error)
    return make_predictions(a, au, name="a", identity=identity), make_predictions(b, au, name="b", identity=identity)


def make_tied_predictions(frames=300, *, seed=0, people=9, folds=3, decimals=2):
    """Two AUs in several folds; probabilities with many ties."""
    random = np.random.default_rng(seed)
    person = np.arange(frames) % people
    au = (random.random((frames, 2)) < [0.4, 0.15]).astype(np.int8)
    probability = np.clip(0.3 * au + random.random(au.shape) * 0.6, 0, 1).round(decimals).astype(np.float32)
    au[random.random(au.shape) < 0.1] = -1
    return Predictions(
        "ours",
        (1, 12),
        probability,
        au,
        np.array([f"id{number}" for number in person]),
        np.full(frames, "v"),
        np.arange(frames, dtype=np.int32),
        (person % folds).astype(np.int8),
        tuple(f"fold{number}" for number in range(folds)),
    )


def make_scores():
    """Two folds, two AUs: F1 of 0.8 and 0.5, then 0.4 and none."""
    counts = ConfusionCounts(
        tp=np.array([[4, 1], [1, 0]]), fp=np.array([[1, 1], [1, 3]]), fn=np.array([[1, 1], [2, 0]])
    )
    return MethodScores.from_counts(
        "ours", aus=(1, 12), counts=counts, folds=("fold0", "fold1"), source="drawn with seed 0"
    )
