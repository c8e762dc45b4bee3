from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facscale.data.errors import DataError
from facscale.data.folds import (
    PUBLISHED,
    concat_splits,
    make_folds,
    make_official_split,
    make_repeated_folds,
    partition,
    subsample,
)

NAMES = st.lists(st.text("abcXYZ019", min_size=1, max_size=6), min_size=3, max_size=40, unique=True)


def test_published_folds_have_the_published_sizes_and_are_disjoint():
    sizes = {name: [len(set(part)) for part in parts] for name, parts in PUBLISHED.items()}
    assert sizes == {"BP4D": [14, 14, 13], "DISFA": [9, 9, 9]}
    assert len(set().union(*PUBLISHED["BP4D"])) == 41  # 23 women, 18 men
    assert len(set().union(*PUBLISHED["DISFA"])) == 27
    assert set().union(*PUBLISHED["BP4D"]) == {f"F{n:03}" for n in range(1, 24)} | {f"M{n:03}" for n in range(1, 19)}


@pytest.mark.parametrize("name", ["BP4D", "DISFA"])
def test_bp4d_and_disfa_get_their_published_folds_for_every_seed(name):
    everyone = [person for part in PUBLISHED[name] for person in part]
    first, second = make_folds(everyone[::-1], seed=1), make_folds(everyone, seed=2)
    assert [fold.test for fold in first] == [frozenset(part) for part in PUBLISHED[name]]
    assert first.hash == second.hash
    assert name in first.source


def test_a_subset_keeps_the_published_folds_and_its_source_has_the_counts():
    split = make_folds(["F001", "F002", "F003", "F004"], seed=0)
    assert [sorted(fold.test) for fold in split] == [["F001", "F002"], ["F003"], ["F004"]]
    assert "4 of 41" in split.source


def test_a_subset_that_leaves_a_fold_empty_is_split_by_seed():
    split = make_folds(["F001", "F002", "F008", "F009", "F010", "F003"], seed=0)
    assert all(fold.test for fold in split)
    assert "seed 0" in split.source


def test_the_official_split_is_one_fold():
    parts = {"train": ["a", "b"], "validation": ["c"], "": ["d"]}
    (fold,) = split = make_official_split(parts)
    assert (fold.train, fold.test) == ({"a", "b"}, {"c"})
    assert "validation" in split.source
    (fold,) = make_official_split(parts | {"test": ["e"]})
    assert (fold.train, fold.test) == ({"a", "b"}, {"e"})
    assert make_official_split({"train": ["a"], "test": []}) is None
    assert make_official_split({"validation": ["a"], "test": ["b"]}) is None
    with pytest.raises(
        DataError, match="1 people are in the parts train and validation .* such as b; set evaluate.off"
    ):
        make_official_split({"train": ["a", "b"], "validation": ["b"]})


def test_an_unknown_subject_or_another_k_is_split_by_seed():
    bp4d = [person for part in PUBLISHED["BP4D"] for person in part]
    assert "seed" in make_folds([*bp4d, "stranger"], seed=0).source
    assert len(make_folds(bp4d, k=5, seed=0)) == 5


@settings(deadline=None)  # of a busy machine
@given(people=NAMES, k=st.integers(2, 5), seed=st.integers(0, 99), data=st.data())
def test_every_subject_is_tested_once_and_never_in_a_fold_that_trains_on_it(people, k, seed, data):
    if len(people) < k:
        with pytest.raises(DataError, match="cannot be split"):
            make_folds(people, k=k, seed=seed)
        return
    counts = data.draw(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=len(people), max_size=len(people)))
    positives = dict(zip(people, counts, strict=True))
    split = make_folds(people, k=k, seed=seed, positives=positives)
    assert sorted(person for fold in split for person in fold.test) == sorted(people)
    for fold in split:
        assert not fold.train & fold.test
        assert fold.train | fold.test == set(people)
    sizes = [len(fold.test) for fold in split]
    assert max(sizes) - min(sizes) <= 1
    shuffled = make_folds(people[::-1] + people, k=k, seed=seed, positives=positives)
    assert shuffled == split  # the order and repetitions do not matter


def test_different_seeds_give_different_hashes():
    people = [f"id{number}" for number in range(20)]
    hashes = {make_folds(people, seed=seed).hash for seed in range(5)}
    assert len(hashes) == 5
    assert make_folds(people, seed=3).hash in hashes


def test_rare_aus_are_distributed_over_the_folds():
    people = [f"id{number}" for number in range(12)]
    rare = {person: [100, 30 if person in ("id2", "id5", "id7") else 0] for person in people}
    for seed in range(10):
        split = make_folds(people, seed=seed, positives=rare)
        assert [len(fold.test & {"id2", "id5", "id7"}) for fold in split] == [1, 1, 1]


def test_a_split_by_seed_is_more_even_than_chance():
    random = np.random.default_rng(0)
    people = [f"id{number:02}" for number in range(24)]
    positives = {person: random.gamma(0.5, 100, size=8) for person in people}

    def unevenness(tests):
        held = np.array([sum(positives[person] for person in test) for test in tests])
        return float((held / held.sum(axis=0)).std(axis=0).mean())

    balanced = unevenness([fold.test for fold in make_folds(people, seed=0, positives=positives)])
    by_chance = [unevenness(np.split(random.permutation(people), 3)) for _ in range(100)]
    assert balanced < np.quantile(by_chance, 0.05)


def test_partition_has_the_right_sizes_and_is_deterministic():
    people = [f"id{number:05d}" for number in range(200)]
    parts = partition(people, validation=0.15, test=0.1, seed=0)
    assert {name: len(members) for name, members in parts.items()} == {"train": 150, "validation": 30, "test": 20}
    assert sorted(person for members in parts.values() for person in members) == people
    assert partition(people[::-1], validation=0.15, test=0.1, seed=0) == parts
    assert partition(people, validation=0.15, test=0.1, seed=1) != parts
    assert partition(people, validation=0.3, test=0.1, seed=0)["test"] == parts["test"]


def test_partition_refuses_too_few_subjects():
    with pytest.raises(DataError, match="3 subjects are too few for data.validation=0.1 and data.test=0"):
        partition(["a", "b", "c"], validation=0.1, test=0, seed=0)


def test_subsamples_are_deterministic_and_nested():
    everybody = [f"p{n}" for n in range(20)]
    three, nine = (subsample(everybody, count=count, seed=1) for count in (3, 9))
    assert len(three) == 3
    assert three < nine < frozenset(everybody) == subsample(reversed(everybody), count=0, seed=1)
    assert subsample(everybody, count=9, seed=2) != nine


def group_subjects(split):
    return {frozenset(fold.test) for fold in split}


def test_repeats_begin_with_the_published_folds_and_all_differ():
    bp4d = [person for part in PUBLISHED["BP4D"] for person in part]
    random = np.random.default_rng(0)
    positives = {person: random.gamma(0.5, 100, size=12) for person in bp4d}
    splits = make_repeated_folds(bp4d, repeats=10, seed=0, positives=positives)
    assert len(splits) == 10
    assert splits[0] == make_folds(bp4d, seed=0)
    assert "published" not in splits[1].source
    assert len({split.source for split in splits}) == 10
    assert len({frozenset(group_subjects(split)) for split in splits}) == 10
    for split in splits:
        assert sorted(person for fold in split for person in fold.test) == sorted(bp4d)
        assert all(not fold.train & fold.test for fold in split)
        assert sorted(len(fold.test) for fold in split) == [13, 14, 14]


def test_fewer_repeats_are_a_prefix_of_more():
    people = [f"id{number}" for number in range(20)]
    assert make_repeated_folds(people, repeats=5, seed=3)[:2] == make_repeated_folds(people[::-1], repeats=2, seed=3)
    assert make_repeated_folds(people, repeats=1, seed=3) == (make_folds(people, seed=3),)
    assert make_repeated_folds(people, repeats=2, seed=4) != make_repeated_folds(people, repeats=2, seed=3)


def test_repeats_regroup_subjects_and_distribute_rare_aus():
    random = np.random.default_rng(1)
    people = [f"id{number:02}" for number in range(24)]
    positives = {person: random.gamma(0.5, 100, size=8) for person in people}
    splits = make_repeated_folds(people, repeats=8, seed=0, positives=positives)

    def unevenness(tests):
        held = np.array([sum(positives[person] for person in test) for test in tests])
        return float((held / held.sum(axis=0)).std(axis=0).mean())

    by_chance = [unevenness(np.split(random.permutation(people), 3)) for _ in range(100)]
    assert max(unevenness([fold.test for fold in split]) for split in splits) < np.median(by_chance)
    pairs = [{pair for fold in split for pair in combinations(sorted(fold.test), 2)} for split in splits]
    kept = [len(first & second) / len(first) for first, second in combinations(pairs, 2)]
    assert np.mean(kept) < 0.5  # 7 / 23 by chance


def test_few_subjects_have_few_splits():
    # four people in two folds of two: three ways
    assert len({frozenset(group_subjects(split)) for split in make_repeated_folds("abcd", repeats=3, k=2, seed=0)}) == 3
    with pytest.raises(DataError, match="4 subjects give only 3 different splits into 2 folds, not 4"):
        make_repeated_folds("abcd", repeats=4, k=2, seed=0)


def test_concatenated_splits_each_test_every_subject_once():
    people = [f"p{number}" for number in range(9)]
    splits = make_repeated_folds(people, repeats=3, k=3, seed=0)
    combined = concat_splits(splits)
    assert [fold.index for fold in combined] == list(range(9))
    assert [fold.name for fold in combined][2:5] == ["split0 fold2", "split1 fold0", "split1 fold1"]
    assert sorted(person for fold in combined for person in fold.test) == sorted(people * 3)
    assert all(not fold.train & fold.test and fold.train | fold.test == set(people) for fold in combined)
    assert combined[0].test == splits[0][0].test
    assert concat_splits(splits[:1]) == splits[0]
    assert len({concat_splits(splits[:n]).hash for n in (1, 2, 3)}) == 3
