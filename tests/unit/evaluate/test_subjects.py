"""What each person contributes to F1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from facscale.evaluate import Predictions, score_subjects
from facscale.evaluate.subjects import count_by_subject


def predictions(frames=300, *, seed=0, folds=2):
    """Six people, everyone tested in one fold, in no order."""
    random = np.random.default_rng(seed)
    person = random.integers(0, 6, frames)
    return Predictions(
        "ours",
        (1, 2, 12),
        random.random((frames, 3), np.float32),
        random.integers(-1, 2, (frames, 3), np.int8),
        identity=np.array([f"id{number}" for number in person]),
        video=np.full(frames, "v"),
        frame=np.arange(frames, dtype=np.int32),
        fold=(person % folds).astype(np.int8),
        folds=tuple(f"fold{number}" for number in range(folds)),
    )


@pytest.mark.parametrize("kind", [str, object])
def test_people_add_up_to_the_row(kind):
    ours = predictions()
    ours = replace(ours, identity=ours.identity.astype(kind))
    found = count_by_subject(ours, threshold=0.4)
    assert found.names == ("id0", "id1", "id2", "id3", "id4", "id5")
    assert found.tested.tolist() == [[True, False], [False, True]] * 3
    assert np.array_equal(found.counts.pool().f1, ours.score(0.4).by_fold)
    assert not found.counts.tp[~found.tested].any()


def test_a_person_is_what_scikit_learn_says_of_their_frames():
    ours = predictions()
    found = score_subjects(ours, threshold=0.4)
    for name, f1 in found.items():
        mine = ours.select(ours.identity == name)
        known = [mine.au[:, number] >= 0 for number in range(3)]
        theirs = [
            f1_score(mine.au[rows, number], mine.probability[rows, number] >= 0.4) for number, rows in enumerate(known)
        ]
        assert f1 == pytest.approx(np.mean(theirs))


def test_aus_that_a_person_never_shows_are_left_out():
    # a: AU1 is found in one of two frames, F1 = 2 / 3; AU2 is never shown. b shows nothing.
    ours = Predictions(
        "ours",
        (1, 2),
        np.array([[0.9, 0.9], [0.1, 0.9], [0.9, 0.9]], np.float32),
        np.array([[1, 0], [1, 0], [0, -1]], np.int8),
        np.array(["a", "a", "b"]),
        np.full(3, "v"),
        np.arange(3, dtype=np.int32),
        np.zeros(3, np.int8),
        ("fold0",),
    )
    assert score_subjects(ours, threshold=0.5) == pytest.approx({"a": 2 / 3, "b": np.nan}, nan_ok=True)


def test_repeats_are_averaged():
    one, other = predictions(), replace(predictions(), probability=predictions(seed=1).probability)
    both = score_subjects(Predictions.concat_splits([one, other]), threshold=0.5)
    alone = [score_subjects(split, threshold=0.5) for split in (one, other)]
    assert both == pytest.approx({name: np.mean([split[name] for split in alone]) for name in both})
