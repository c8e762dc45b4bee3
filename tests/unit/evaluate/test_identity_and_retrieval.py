"""Identity leakage and retrieval on features whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facscale.evaluate.identity import identity_accuracy
from facscale.inference import retrieval
from facscale.inference.retrieval import nearest, recall


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


def test_recall_by_hand():
    features = np.array([[1.0, 0], [0.9, 0.1], [0.8, 0.3], [0, 1], [0.1, 1], [1, 1]])
    au = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [-1, 1]], np.int8)
    identity = np.array(["a", "a", "b", "b", "c", "c"])
    # 0 and 1 have no stranger with their AUs; 2 and 3 find 4, but 2 finds 0 and 1 first; 4 finds 3 first
    assert recall(features, au=au, identity=identity, ks=(1, 3)) == {
        "recall/at_1": pytest.approx(2 / 3),
        "recall/at_3": 1.0,
    }


def test_nobody_to_ask_about():
    features = np.eye(3)
    assert recall(features, au=np.zeros((3, 2), np.int8), identity=np.array(["a", "b", "c"])) == {}


FEATURES = np.array([[3.0, 0], [2, 0.2], [1, 0.3], [1, 1], [0, 2]], np.float32)  # ever further from the first one


@pytest.mark.parametrize("block", [2, 100])
def test_the_nearest_by_angle_among_those_who_may_answer(monkeypatch, block):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    FEATURES.setflags(write=False)  # as Arrow gives them
    allowed = np.array([[False, True, False, True, True], [False, False, False, False, True]])
    found, similar = nearest(FEATURES, queries=FEATURES[:2] * 5, allowed=allowed, k=2)
    assert found[0].tolist() == [1, 3]
    assert similar[0] == pytest.approx([1 / np.sqrt(1.01), np.sqrt(0.5)])
    assert found[1, 0] == 4
    assert similar[1, 1] == -np.inf, "nobody else may answer"


def test_of_each_group_one_answers():
    allowed = np.array([[False, True, True, True, True], [True, False, True, True, True]])
    group = np.array(["a", "a", "a", "b", "b"])
    found, similar = nearest(FEATURES, queries=FEATURES[[0, 4]], allowed=allowed, k=3, group=group)
    assert found[:, :2].tolist() == [[1, 3], [4, 2]], "the best of those of the group who may"
    assert similar[:, 2].tolist() == [-np.inf, -np.inf]
