"""Identity leakage on features whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facscale.evaluate.identity import identity_accuracy


@pytest.fixture
def people():
    random = np.random.default_rng(0)
    identity = np.repeat([f"id{n}" for n in range(8)], 60)
    video = np.tile(np.repeat(["a", "b", "c"], 20), 8)
    return random, identity, video


def test_features_of_the_person_give_the_person_away(people):
    random, identity, video = people
    centres = {person: random.normal(size=5) * 3 for person in np.unique(identity)}
    features = np.stack([centres[person] for person in identity]) + random.normal(size=(480, 5)) * 0.3
    assert identity_accuracy(features, identity=identity, video=video) > 0.97


def test_features_of_the_video_alone_do_not(people):
    random, identity, video = people
    places = {pair: random.normal(size=5) * 5 for pair in sorted(set(zip(identity, video, strict=True)))}
    features = np.stack([places[pair] for pair in zip(identity, video, strict=True)])
    assert identity_accuracy(features, identity=identity, video=video) < 0.5, "no neighbour in time is on both sides"


def test_one_video_each_says_nothing(people):
    random, identity, _ = people
    assert math.isnan(identity_accuracy(random.normal(size=(480, 5)), identity=identity, video=identity))
