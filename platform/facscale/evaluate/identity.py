"""How much of a person is left in a representation that should hold facial actions alone."""

from __future__ import annotations

import numpy as np

FRAMES = 100  # of a person in each half: enough to tell people apart, few enough to wait for
ROUNDS = 300


def identity_accuracy(features: np.ndarray, *, identity: np.ndarray, video: np.ndarray, seed: int = 0) -> float:
    """Share of frames of which a linear classifier names the person: 1 / people by chance, 1 if nothing is hidden.

    features [N, D], identity [N], video [N]. It learns on one half of each person's videos and is asked about the other, so
    that neighbours in time are never on both sides; people with a single video are left out. nan without two people.
    """
    from sklearn.linear_model import LogisticRegression  # here, for every trial's process would load it
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(seed)
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for person in np.unique(identity):
        of_person = np.flatnonzero(identity == person)
        videos = random.permutation(np.unique(video[of_person]))
        if len(videos) < 2:
            continue
        for half, chosen in zip(halves, np.array_split(videos, 2), strict=True):
            frames = of_person[np.isin(video[of_person], chosen)]
            half.append(random.permutation(frames)[:FRAMES])
    if len(halves[0]) < 2:
        return float("nan")
    learn, ask = (np.concatenate(half) for half in halves)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ROUNDS, C=0.1))
    classifier.fit(features[learn], identity[learn])
    return float(classifier.score(features[ask], identity[ask]))
