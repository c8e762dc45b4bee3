from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facscale.data.errors import DataError
from facscale.data.folds import PUBLISHED, folds, parts, repeated_folds, some, together

NAMES = st.lists(st.text("abcXYZ019", min_size=1, max_size=6), min_size=3, max_size=40, unique=True)


def test_published_parts_have_the_published_sizes_and_share_nobody():
    sizes = {name: [len(set(part)) for part in parts] for name, parts in PUBLISHED.items()}
    assert sizes == {"BP4D": [14, 14, 13], "DISFA": [9, 9, 9]}
    assert len(set().union(*PUBLISHED["BP4D"])) == 41  # 23 women, 18 men
    assert len(set().union(*PUBLISHED["DISFA"])) == 27
    assert set().union(*PUBLISHED["BP4D"]) == {f"F{n:03}" for n in range(1, 24)} | {f"M{n:03}" for n in range(1, 19)}


@pytest.mark.parametrize("name", ["BP4D", "DISFA"])
def test_a_known_data_set_gets_its_published_parts_whatever_the_seed(name):
    everyone = [person for part in PUBLISHED[name] for person in part]
    one, other = folds(everyone[::-1], seed=1), folds(everyone, seed=2)
    assert [fold.test for fold in one] == [frozenset(part) for part in PUBLISHED[name]]
    assert one.hash == other.hash
    assert name in one.source


def test_a_subset_keeps_the_published_parts_and_says_how_many_it_is():
    split = folds(["F001", "F002", "F003", "F004"], seed=0)
    assert [sorted(fold.test) for fold in split] == [["F001", "F002"], ["F003"], ["F004"]]
    assert "4 of 41" in split.source


def test_a_subset_that_leaves_a_part_empty_is_drawn_instead():
    split = folds(["F001", "F002", "F008", "F009", "F010", "F003"], seed=0)
    assert all(fold.test for fold in split)
    assert "seed 0" in split.source


def test_a_stranger_or_another_k_means_a_drawn_split():
    bp4d = [person for part in PUBLISHED["BP4D"] for person in part]
    assert "seed" in folds([*bp4d, "stranger"], seed=0).source
    assert len(folds(bp4d, k=5, seed=0)) == 5


@settings(deadline=None)  # of a busy machine
@given(people=NAMES, k=st.integers(2, 5), seed=st.integers(0, 99), data=st.data())
def test_everybody_is_tested_once_and_never_where_they_train(people, k, seed, data):
    if len(people) < k:
        with pytest.raises(DataError, match="cannot be split"):
            folds(people, k=k, seed=seed)
        return
    counts = data.draw(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=len(people), max_size=len(people)))
    positives = dict(zip(people, counts, strict=True))
    split = folds(people, k=k, seed=seed, positives=positives)
    assert sorted(person for fold in split for person in fold.test) == sorted(people)
    for fold in split:
        assert not fold.train & fold.test
        assert fold.train | fold.test == set(people)
    sizes = [len(fold.test) for fold in split]
    assert max(sizes) - min(sizes) <= 1
    shuffled = folds(people[::-1] + people, k=k, seed=seed, positives=positives)
    assert shuffled == split  # the order and repetitions do not matter


def test_seeds_differ_and_the_hash_tells_them_apart():
    people = [f"id{number}" for number in range(20)]
    hashes = {folds(people, seed=seed).hash for seed in range(5)}
    assert len(hashes) == 5
    assert folds(people, seed=3).hash in hashes


def test_rare_actions_are_spread_over_the_folds():
    people = [f"id{number}" for number in range(12)]
    rare = {person: [100, 30 if person in ("id2", "id5", "id7") else 0] for person in people}
    for seed in range(10):
        split = folds(people, seed=seed, positives=rare)
        assert [len(fold.test & {"id2", "id5", "id7"}) for fold in split] == [1, 1, 1]


def test_a_drawn_split_is_more_even_than_chance():
    random = np.random.default_rng(0)
    people = [f"id{number:02}" for number in range(24)]
    positives = {person: random.gamma(0.5, 100, size=8) for person in people}

    def unevenness(tests):
        held = np.array([sum(positives[person] for person in test) for test in tests])
        return float((held / held.sum(axis=0)).std(axis=0).mean())

    balanced = unevenness([fold.test for fold in folds(people, seed=0, positives=positives)])
    by_chance = [unevenness(np.split(random.permutation(people), 3)) for _ in range(100)]
    assert balanced < np.quantile(by_chance, 0.05)


def test_people_are_parted_once_and_for_all():
    people = [f"id{number:05d}" for number in range(200)]
    found = parts(people, validation=0.15, test=0.1, seed=0)
    assert {name: len(members) for name, members in found.items()} == {"train": 150, "validation": 30, "test": 20}
    assert sorted(person for members in found.values() for person in members) == people
    assert parts(people[::-1], validation=0.15, test=0.1, seed=0) == found
    assert parts(people, validation=0.15, test=0.1, seed=1) != found
    assert parts(people, validation=0.3, test=0.1, seed=0)["test"] == found["test"]


def test_too_few_people_to_part():
    with pytest.raises(DataError, match="3 people are too few for data.validation=0.1 and data.test=0"):
        parts(["a", "b", "c"], validation=0.1, test=0, seed=0)


def test_some_people_are_always_the_same_and_fewer_are_among_more():
    everybody = [f"p{n}" for n in range(20)]
    three, nine = (some(everybody, count=count, seed=1) for count in (3, 9))
    assert len(three) == 3
    assert three < nine < frozenset(everybody) == some(reversed(everybody), count=0, seed=1)
    assert some(everybody, count=9, seed=2) != nine


def company_of(split):
    return {frozenset(fold.test) for fold in split}


def test_repeats_begin_with_the_published_parts_and_all_differ():
    bp4d = [person for part in PUBLISHED["BP4D"] for person in part]
    random = np.random.default_rng(0)
    positives = {person: random.gamma(0.5, 100, size=12) for person in bp4d}
    splits = repeated_folds(bp4d, repeats=10, seed=0, positives=positives)
    assert len(splits) == 10
    assert splits[0] == folds(bp4d, seed=0)
    assert "published" not in splits[1].source
    assert len({split.source for split in splits}) == 10
    assert len({frozenset(company_of(split)) for split in splits}) == 10
    for split in splits:
        assert sorted(person for fold in split for person in fold.test) == sorted(bp4d)
        assert all(not fold.train & fold.test for fold in split)
        assert sorted(len(fold.test) for fold in split) == [13, 14, 14]


def test_fewer_repeats_are_among_more():
    people = [f"id{number}" for number in range(20)]
    assert repeated_folds(people, repeats=5, seed=3)[:2] == repeated_folds(people[::-1], repeats=2, seed=3)
    assert repeated_folds(people, repeats=1, seed=3) == (folds(people, seed=3),)
    assert repeated_folds(people, repeats=2, seed=4) != repeated_folds(people, repeats=2, seed=3)


def test_repeats_part_people_anew_and_spread_rare_actions():
    random = np.random.default_rng(1)
    people = [f"id{number:02}" for number in range(24)]
    positives = {person: random.gamma(0.5, 100, size=8) for person in people}
    splits = repeated_folds(people, repeats=8, seed=0, positives=positives)

    def unevenness(tests):
        held = np.array([sum(positives[person] for person in test) for test in tests])
        return float((held / held.sum(axis=0)).std(axis=0).mean())

    by_chance = [unevenness(np.split(random.permutation(people), 3)) for _ in range(100)]
    assert max(unevenness([fold.test for fold in split]) for split in splits) < np.median(by_chance)
    pairs = [{pair for fold in split for pair in combinations(sorted(fold.test), 2)} for split in splits]
    kept = [len(one & other) / len(one) for one, other in combinations(pairs, 2)]
    assert np.mean(kept) < 0.5  # 7 / 23 by chance


def test_few_people_have_few_splits():
    # four people in two folds of two: three ways
    assert len({frozenset(company_of(split)) for split in repeated_folds("abcd", repeats=3, k=2, seed=0)}) == 3
    with pytest.raises(DataError, match="4 subjects give only 3 different splits into 2 folds, not 4"):
        repeated_folds("abcd", repeats=4, k=2, seed=0)


def test_splits_together_test_everybody_once_each():
    people = [f"p{number}" for number in range(9)]
    splits = repeated_folds(people, repeats=3, k=3, seed=0)
    whole = together(splits)
    assert [fold.index for fold in whole] == list(range(9))
    assert [fold.name for fold in whole][2:5] == ["split0 fold2", "split1 fold0", "split1 fold1"]
    assert sorted(person for fold in whole for person in fold.test) == sorted(people * 3)
    assert all(not fold.train & fold.test and fold.train | fold.test == set(people) for fold in whole)
    assert whole[0].test == splits[0][0].test
    assert together(splits[:1]) == splits[0]
    assert len({together(splits[:n]).hash for n in (1, 2, 3)}) == 3
