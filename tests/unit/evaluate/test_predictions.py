"""What a method said of people it had not seen, kept and asked."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossval import cross_validate
from facscale.data.folds import make_folds
from facscale.evaluate import Predictions, find_frames
from facscale.evaluate.predictions import align_predictions
from facscale.evaluate.probe import fit_probe, predict_probabilities
from facscale.spec.models import Probe

AUS = (1, 2, 12)


def predictions(frames=60, *, name="ours", seed=0, aus=AUS, fold="fold0"):
    """Four people with two videos each, as far as they go, in no order."""
    random = np.random.default_rng(seed)
    number = random.permutation(frames)
    return Predictions(
        name,
        aus,
        random.random((frames, len(aus)), np.float32),
        random.integers(-1, 2, (frames, len(aus)), np.int8),
        identity=np.array([f"id{one % 4}" for one in number]),
        video=np.array([f"v{one // 4 % 2}" for one in number]),
        frame=number.astype(np.int32),
        fold=np.zeros(frames, np.int8),
        folds=(fold,),
        source="drawn",
    )


def same(one, other):
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert np.array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
        else:
            assert mine == theirs
    return True


def test_its_f1_is_that_of_the_cross_validation():
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 8)).astype(np.float32)
    au = (features @ random.normal(size=(8, 3)) > [0, 1, 2]).astype(np.int8)
    au[::7, 1] = -1
    identity = np.array([f"id{number}" for number in range(12)]).repeat(50)
    split, probe = make_folds(identity, seed=0), Probe(epochs=3, batch_size=64)
    pieces = []
    for fold in split:
        train, test = find_frames(fold.train, identity=identity), find_frames(fold.test, identity=identity)
        model = fit_probe(features[train], au=au[train], probe=probe, seed=5 + fold.index)
        place = identity[test], np.full(len(test), "v"), test.astype(np.int32), np.zeros(len(test), np.int8)
        found = predict_probabilities(model, features=features[test])
        pieces.append(Predictions("ours", AUS, found, au[test], *place, (fold.name,), split.source))
    ours = Predictions.concat(pieces)
    assert ours.folds == tuple(fold.name for fold in split)
    assert sorted(ours.frame.tolist()) == list(range(600))
    for threshold in (0.5, 0.9):
        theirs = cross_validate(
            features,
            au=au,
            identity=identity,
            aus=AUS,
            split=split,
            name="ours",
            probe=probe,
            threshold=threshold,
            seed=5,
        ).rows[0]
        found = ours.score(threshold)
        assert np.array_equal(found.by_fold, theirs.by_fold, equal_nan=True)
        assert np.array_equal(found.pooled, theirs.pooled, equal_nan=True)
        assert (found.name, found.aus, found.folds, found.source) == ("ours", AUS, theirs.folds, theirs.source)


def test_it_survives_a_file():
    ours = Predictions.concat([predictions(), predictions(20, fold="fold1", seed=1)])
    assert same(Predictions.from_parquet(ours.to_parquet()), ours)


def test_the_protocol_survives_a_file_and_is_not_known_of_older_files():
    ours = replace(predictions(), protocol="adapted-batchnorm")
    again = Predictions.from_parquet(ours.to_parquet())
    assert (again.protocol, again.score(0.5).protocol) == ("adapted-batchnorm",) * 2
    table = pq.read_table(pa.BufferReader(ours.to_parquet()))
    metadata = json.loads(table.schema.metadata[b"predictions"])
    del metadata["protocol"]
    out = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"predictions": json.dumps(metadata)}), out)
    assert Predictions.from_parquet(out.getvalue().to_pybytes()).protocol == ""


def test_empty_ones_survive_a_file():
    nothing = predictions().select(np.array([], int))
    assert same(
        Predictions.from_parquet(nothing.to_parquet()),
        replace(nothing, identity=np.array([], str), video=np.array([], str)),
    )
    assert Predictions.from_parquet(predictions(4, aus=()).to_parquet()).au.shape == (4, 0)


def test_joined_folds_are_numbered_on():
    three = Predictions.concat([predictions(fold=f"fold{number}", seed=number) for number in range(3)])
    assert three.fold.tolist() == [0] * 60 + [1] * 60 + [2] * 60
    again = Predictions.concat([three, predictions(fold="more")])
    assert again.folds == ("fold0", "fold1", "fold2", "more")
    assert again.fold.tolist() == three.fold.tolist() + [3] * 60
    assert again.fold.dtype == np.int8


@pytest.mark.parametrize("change", [{"name": "other"}, {"aus": (1, 2, 4)}, {"source": "other"}, {"protocol": "other"}])
def test_only_what_belongs_together_is_joined(change):
    with pytest.raises(ValueError, match="only predictions of one method"):
        Predictions.concat([predictions(), replace(predictions(), **change)])


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"au \[60, 2\] does not fit 60 frames of 3 AUs"):
        replace(predictions(), au=np.zeros((60, 2), np.int8))
    with pytest.raises(ValueError, match=r"video \[59\]"):
        replace(predictions(), video=np.full(59, "v"))


@pytest.mark.parametrize("kind", [str, object])  # as numpy has it, and as a table gives it
def test_a_video_is_its_frames_in_order(kind):
    everything = predictions()
    everything = replace(everything, identity=everything.identity.astype(kind), video=everything.video.astype(kind))
    found = everything.select_video("id2", "v1")
    assert found.frame.tolist() == [number for number in range(60) if number % 4 == 2 and number // 4 % 2 == 1]
    assert set(found.identity) == {"id2"}
    row = everything.frame.tolist().index(found.frame[3])
    assert np.array_equal(found.probability[3], everything.probability[row])
    with pytest.raises(ValueError, match="no frame of video v9 of id2"):
        everything.select_video("id2", "v9")


def test_the_video_with_most_change_is_a_slow_loops():
    for seed in range(5):
        ours = predictions(200, seed=seed)
        best, most = None, -1
        for place in sorted(set(zip(ours.identity.tolist(), ours.video.tolist(), strict=True))):
            au = ours.select_video(*place).au.tolist()
            changes = 0
            for before, after in pairwise(au):
                changes += sum(
                    one != other and -1 not in {one, other} for one, other in zip(before, after, strict=True)
                )
            if changes > most:
                best, most = place, changes
        assert ours.find_most_changing_video() == best


def test_change_from_one_video_to_the_next_is_none():
    au = np.array([[0], [0], [1], [1], [0], [1]], np.int8)
    ours = Predictions(
        "ours",
        (1,),
        np.zeros((6, 1), np.float32),
        au,
        np.array(["a", "a", "b", "b", "c", "c"]),
        np.full(6, "v"),
        np.array([0, 1, 0, 1, 0, 1], np.int32),
        np.zeros(6, np.int8),
        ("fold0",),
    )
    assert ours.find_most_changing_video() == ("c", "v")


def test_methods_are_compared_on_the_frames_that_all_have():
    names = np.array(["a", "a", "b", "b"])
    frames = np.array([1, 2, 1, 2], np.int32)
    parts = [[0, 1, 2], [3, 2, 1]]
    methods = [
        Predictions(
            f"m{number}",
            (1,),
            frames[rows, None].astype(np.float32) / 10,
            np.ones((3, 1), np.int8),
            names[rows],
            np.full(3, "v"),
            frames[rows],
            fold=np.zeros(3, np.int8),
            folds=("all",),
        )
        for number, rows in enumerate(parts)
    ]
    first, second = align_predictions(methods)
    assert first.identity.tolist() == second.identity.tolist() == ["a", "b"]
    assert first.frame.tolist() == second.frame.tolist() == [2, 1]


def test_repeated_splits_are_one_with_folds_named_after_them():
    one = Predictions.concat([predictions(30, fold="fold0"), predictions(30, fold="fold1", seed=1)])
    other = replace(one.select(np.arange(59, -1, -1)), source="drawn anew")
    both = Predictions.concat_splits([one, other])
    assert both.folds == ("split0 fold0", "split0 fold1", "split1 fold0", "split1 fold1")
    assert both.source == "drawn; drawn anew"
    assert both.fold.tolist() == [0] * 30 + [1] * 30 + [3] * 30 + [2] * 30
    rows = [split.score(0.5).by_fold for split in (one, other)]
    assert np.array_equal(both.score(0.5).by_fold, np.concatenate(rows), equal_nan=True)
    assert Predictions.concat_splits([one]) is one


def test_a_frame_of_several_splits_is_seen_once_as_the_first_saw_it():
    one = predictions(40)
    other = replace(one.select(np.random.default_rng(2).permutation(40)), probability=np.ones((40, 3), np.float32))
    both = Predictions.concat_splits([other, one])
    assert same(both.first_per_frame(), replace(other.select(other.sort_order()), folds=both.folds))
    ordered = both.select(both.sort_order())
    assert ordered.fold.tolist() == [0, 1] * 40
    assert ordered.is_new_frame().tolist() == [True, False] * 40
    nothing = one.select(np.array([], int))
    assert len(nothing.first_per_frame()) == 0


def test_more_folds_than_their_numbers_can_tell_are_refused():
    piece = predictions(2)
    assert len(Predictions.concat([piece] * 128).folds) == 128
    with pytest.raises(ValueError, match="129 folds are more than the 128"):
        Predictions.concat([piece] * 129)


def test_repeated_methods_are_matched_in_every_split():
    one = predictions(40)
    rest = np.flatnonzero(one.frame != 7)
    whole = Predictions.concat_splits([one, one.select(np.random.default_rng(2).permutation(40))])
    less = Predictions.concat_splits([one.select(rest), one.select(rest[::-1])])
    first, second = align_predictions([whole, less])
    assert len(first) == len(second) == 78
    assert first.has_same_frames(second)
    assert np.array_equal(first.fold, second.fold)
    assert np.array_equal(first.probability, second.probability)
    assert not whole.has_same_frames(less)
    shorter = align_predictions([one, one.select(rest)])[0]
    assert shorter.has_same_frames(align_predictions([one.select(rest), one.select(rest)])[1])
