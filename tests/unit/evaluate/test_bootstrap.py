"""How sure a figure is: against loops over the same draws, and worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from facscale.evaluate import Predictions, bootstrap_difference
from facscale.evaluate.bootstrap import F1Difference, Interval, draw_subjects, draw_trainings

DRAWS = 30


def pair(frames=400, *, seed=0, people=8, skill=(0.6, 0.9), folds=2):
    """Two methods on the same frames of the same people, the second one right more often."""
    random = np.random.default_rng(seed)
    person = np.arange(frames) % people
    au = (random.random((frames, 3)) < random.beta(1, 2, (people, 3))[person]).astype(np.int8)
    probability = [
        np.clip(0.5 + (au - 0.5) * better + random.normal(0, 0.35, au.shape), 0, 1).astype(np.float32)
        for better in skill
    ]
    au[random.random(au.shape) < 0.1] = -1
    place = np.array([f"id{number}" for number in person]), np.full(frames, "v"), np.arange(frames, dtype=np.int32)
    names = tuple(f"fold{number}" for number in range(folds))
    return [
        Predictions(name, (1, 2, 12), found, au, *place, (person % folds).astype(np.int8), names)
        for name, found in zip("AB", probability, strict=True)
    ]


def slow_f1(predictions, weights):
    """Mean F1 of people who count `weights` times, {name: times}: frames written out as often."""
    rows = [row for row, name in enumerate(predictions.identity) for _ in range(int(weights[name]))]
    drawn = predictions.select(np.array(rows, int))
    by_au = []
    for number in range(len(predictions.aus)):
        by_fold = []
        for fold in range(len(predictions.folds)):
            mine = (drawn.fold == fold) & (drawn.au[:, number] >= 0)
            if (drawn.au[mine, number] == 1).any():
                active, found = drawn.au[mine, number] == 1, drawn.probability[mine, number] >= 0.5
                by_fold.append(2 * (active & found).sum() / (active.sum() + found.sum()))
        by_au.append(np.mean(by_fold) if by_fold else np.nan)
    return np.array([np.nanmean(by_au), *by_au])


def slow_interval(values, *, measured, freedom, level=0.95):
    values = np.asarray(values)[~np.isnan(values)]
    tail = norm.cdf(t.ppf((1 - level) / 2, freedom))
    return np.quantile(values, [tail, 1 - tail]) + measured - np.mean(values)


def half_width(found):
    return (found.f1.high - found.f1.low) / 2


def draws(seed, *, tested, trainings):
    """What `difference` draws."""
    random = np.random.default_rng(seed)
    people = draw_subjects(tested, resamples=DRAWS, random=random)
    return people, [draw_trainings(number, resamples=DRAWS, random=random) for number in trainings]


@pytest.mark.parametrize("rare", [False, True])
def test_a_difference_is_that_of_frames_written_out(rare):
    a, b = pair()
    if rare:  # two of the four people of a fold show AU2, so that some draws have none
        au = a.au.copy()
        au[~np.isin(a.identity, ["id0", "id2", "id1"]), 1] = 0
        a, b = replace(a, au=au), replace(b, au=au)
    found = bootstrap_difference([a], [b], threshold=0.5, resamples=DRAWS, seed=4)
    names = sorted(set(a.identity))
    tested = np.array([[number % 2 == fold for fold in range(2)] for number in range(8)])
    people, _ = draws(4, tested=tested, trainings=[1, 1])
    lines = [dict(zip(names, line, strict=True)) for line in people]
    slow = np.array([slow_f1(b, line) - slow_f1(a, line) for line in lines])
    assert slow[0, 0] == pytest.approx(b.score(0.5).mean - a.score(0.5).mean)
    for number, mine in enumerate([found.f1, *found.by_au.values()]):
        low, high = slow_interval(slow[1:, number], measured=slow[0, number], freedom=6)
        assert mine == pytest.approx((slow[0, number], low, high), abs=1e-9)
    assert (found.subjects, found.seeds, found.resamples, tuple(found.by_au)) == (8, (1, 1), DRAWS, (1, 2, 12))


def test_seeds_are_drawn_for_each_method_by_itself():
    seeds = [pair(seed=0, skill=skill) for skill in ((0.5, 0.8), (0.7, 0.9), (0.6, 1.0))]
    au = seeds[0][0].au
    a, b = ([replace(one[side], au=au) for one in seeds] for side in (0, 1))
    found = bootstrap_difference(a, b[:2], threshold=0.5, resamples=DRAWS, seed=1)
    tested = np.array([[number % 2 == fold for fold in range(2)] for number in range(8)])
    people, (of_a, of_b) = draws(1, tested=tested, trainings=[3, 2])
    slow = []
    for line, mine, other in zip(people, of_a, of_b, strict=True):
        weights = {f"id{number}": times for number, times in enumerate(line)}
        f1 = [
            sum(share * slow_f1(one, weights)[0] for share, one in zip(shares, side, strict=True))
            for shares, side in ((mine, a), (other, b[:2]))
        ]
        slow.append(f1[1] - f1[0])
    low, high = slow_interval(slow[1:], measured=slow[0], freedom=6)
    assert found.f1 == pytest.approx((slow[0], low, high), abs=1e-9)
    means = [np.mean([one.score(0.5).mean for one in side]) for side in (a, b[:2])]
    assert found.f1.value == pytest.approx(means[1] - means[0])
    assert found.seeds == (3, 2)


def test_draws_are_of_each_folds_people_and_vary_as_a_mean_does():
    random = np.random.default_rng(0)
    tested = np.array([[True, False]] * 9 + [[False, True]] * 5)
    drawn = draw_subjects(tested, resamples=20_000, random=random)
    assert (drawn[0] == 1).all()
    assert (drawn[1:, :9].sum(axis=1) == 8).all()
    assert (drawn[1:, 9:].sum(axis=1) == 4).all()
    value = random.normal(size=9)
    means = drawn[1:, :9] @ value / 8
    assert means.var() == pytest.approx(value.var(ddof=1) / 9, rel=0.05)  # not too small by 9 / 8
    trainings = draw_trainings(3, resamples=20_000, random=random)
    assert trainings.sum(axis=1) == pytest.approx(1)
    assert (trainings[1:] @ value[:3]).var() == pytest.approx(value[:3].var(ddof=1) / 3, rel=0.05)
    assert (draw_trainings(1, resamples=5, random=random) == 1).all()


def test_a_person_of_several_splits_is_drawn_once_for_all():
    a, b = pair()
    swapped = [replace(one, fold=(1 - one.fold).astype(np.int8)) for one in (a, b)]
    twice = [Predictions.concat_splits([one, other]) for one, other in zip((a, b), swapped, strict=True)]
    alone = bootstrap_difference([a], [b], threshold=0.5, resamples=DRAWS)
    both = bootstrap_difference([twice[0]], [twice[1]], threshold=0.5, resamples=DRAWS)
    assert both.subjects == 8
    assert both.f1 == pytest.approx(alone.f1)  # the same folds under other numbers add no evidence


def test_a_set_that_every_fold_tests_whole_has_one_group_of_people():
    a, b = pair(folds=1)
    every = [Predictions.concat([one, one, one]) for one in (a, b)]
    assert bootstrap_difference([every[0]], [every[1]], threshold=0.5).f1 == pytest.approx(
        bootstrap_difference([a], [b], threshold=0.5).f1
    )


def test_the_same_method_does_not_differ():
    a, _ = pair()
    found = bootstrap_difference([a], [a], threshold=0.5, resamples=DRAWS)
    assert found.f1 == (0, 0, 0)
    assert set(found.by_au.values()) == {(0, 0, 0)}
    assert half_width(found) == 0
    assert found.verdict == "not distinguishable with these 8 subjects: A - A = +0.0 [0.0, 0.0]"


def test_exchanged_methods_only_change_the_sign():
    a, b = pair()
    one, other = (bootstrap_difference([x], [y], threshold=0.5, resamples=DRAWS) for x, y in ((a, b), (b, a)))
    assert other.f1 == pytest.approx((-one.f1.value, -one.f1.high, -one.f1.low))
    assert half_width(other) == pytest.approx(half_width(one))
    assert one.verdict.replace("B is better than A", "") == other.verdict.replace("A is worse than B", "")


def test_frames_are_matched_in_whatever_order():
    a, b = pair()
    less = b.select(np.random.default_rng(1).permutation(len(b))[:-5])
    kept = np.isin(b.frame, less.frame)
    assert bootstrap_difference([a], [less], threshold=0.5) == bootstrap_difference(
        [a.select(kept)], [b.select(kept)], threshold=0.5
    )


def test_who_is_right_on_all_people_is_better_and_on_half_of_them_is_not():
    a, _ = pair(people=20, frames=2000)
    right = np.where(a.au == 1, 0.9, 0.1).astype(np.float32)
    assert bootstrap_difference([a], [replace(a, name="B", probability=right)], threshold=0.5).verdict.startswith(
        "B is better"
    )
    half = np.isin(a.identity, [f"id{number}" for number in (0, 1, 4, 5, 8, 9, 12, 13, 16, 17)])[:, None]
    noise = np.random.default_rng(0).random(a.au.shape, np.float32)
    one, other = np.where(half, right, noise), np.where(half, noise, right)
    mixed = [replace(a, name=name, probability=found) for name, found in (("A", one), ("B", other))]
    assert not bootstrap_difference(mixed[:1], mixed[1:], threshold=0.5).is_significant


def test_more_people_tell_smaller_differences():
    few, many = (
        bootstrap_difference(*([one] for one in pair(frames=50 * n, people=n)), threshold=0.5) for n in (8, 80)
    )
    assert half_width(many) < half_width(few) / 2


def test_a_wider_level_is_a_wider_interval():
    a, b = pair()
    narrow, wide = (bootstrap_difference([a], [b], threshold=0.5, level=level).f1 for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_verdicts():
    def said(*f1):
        return F1Difference("A", "B", Interval(*f1), {}, subjects=41, seeds=(1, 1), level=0.95, resamples=9).verdict

    assert said(0.012, 0.003, 0.021) == "B is better than A by 1.2 [0.3, 2.1]"
    assert said(-0.012, -0.021, -0.003) == "B is worse than A by 1.2 [0.3, 2.1]"
    assert said(0.004, -0.005, 0.013) == "not distinguishable with these 41 subjects: B - A = +0.4 [-0.5, 1.3]"
    assert said(-0.0004, -0.0104, 0.01).endswith("B - A = +0.0 [-1.0, 1.0]")
    assert said(np.nan, np.nan, np.nan) == "nothing can be said with these 41 subjects: F1 of B or A is undefined"
    assert said(0.01, np.nan, np.nan) == "not distinguishable with these 41 subjects: B - A = +1.0, without an interval"


def test_where_nothing_can_be_known():
    a, b = pair()
    lonely = bootstrap_difference(
        *([one.select(np.isin(one.identity, ["id0", "id1"]))] for one in (a, b)), threshold=0.5
    )
    assert np.isnan([lonely.f1.low, lonely.f1.high]).all()  # one person a fold
    assert not np.isnan(lonely.f1.value)
    unseen = [replace(one, au=np.where(np.arange(3) == 1, 0, one.au).astype(np.int8)) for one in (a, b)]
    found = bootstrap_difference([unseen[0]], [unseen[1]], threshold=0.5)
    assert np.isnan(found.by_au[2]).all()
    assert not np.isnan(found.f1).any()


def test_what_does_not_belong_together_is_refused():
    a, b = pair()
    with pytest.raises(ValueError, match="A and B predict different AUs"):
        bootstrap_difference([a], [replace(b, aus=(1, 2, 4))], threshold=0.5)
    with pytest.raises(ValueError, match="A and B were tested with different labels"):
        bootstrap_difference([a], [replace(b, au=np.zeros_like(b.au))], threshold=0.5)
    with pytest.raises(ValueError, match="a different number of times"):
        bootstrap_difference([a], [Predictions.concat_splits([b, b])], threshold=0.5)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    found = [
        bootstrap_difference(
            *([one] for one in pair(frames=480, seed=seed, people=16)), threshold=0.5, resamples=200
        ).f1
        for seed in range(200)
    ]
    truth = np.mean([one.value for one in found])
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.9 <= held <= 0.99
    spread = 1.96 * np.std([one.value for one in found])
    assert np.mean([(one.high - one.low) / 2 for one in found]) == pytest.approx(spread, rel=0.15)
