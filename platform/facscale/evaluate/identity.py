"""Identity leakage: how much of a person is left in a representation that should hold facial actions alone."""

from __future__ import annotations

import numpy as np

MAX_FRAMES = 100  # of a person in each half: enough to recognise people, few enough to be quick
MAX_ITERATIONS = 300


def identity_accuracy(features: np.ndarray, *, identity: np.ndarray, video: np.ndarray, seed: int = 0) -> float:
    """Share of frames whose person a linear classifier recognises, in [0, 1]; by chance 1 / number of people.

    features [N, D], identity [N], video [N]. It is trained on one half of each person's videos and tested on the other, so
    that neighbours in time are never on both sides; people with a single video are left out. nan without two people.
    """
    from sklearn.linear_model import LogisticRegression  # not on top: every trial's process would load it
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(seed)
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for person in np.unique(identity):
        of_person = np.flatnonzero(identity == person)
        videos = random.permutation(np.unique(video[of_person]))
        if len(videos) < 2:
            continue
        for half, videos_of_half in zip(halves, np.array_split(videos, 2), strict=True):
            frames = of_person[np.isin(video[of_person], videos_of_half)]
            half.append(random.permutation(frames)[:MAX_FRAMES])
    if len(halves[0]) < 2:
        return float("nan")
    train, test = (np.concatenate(half) for half in halves)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS, C=0.1))
    classifier.fit(features[train], identity[train])
    return float(classifier.score(features[test], identity[test]))
