"""The order of samples: each sample once per epoch, for any number of workers and any starting position."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facscale.data import order
from facscale.data.manifest import Runs

SEEDS = st.integers(0, 2**40)


def stored(frames, groups, *, persons=3, tracks=None):
    """Runs as in a data set's index; `tracks`: (identity, video, track) of each run, else each run is a video of its own."""
    count = len(frames)
    tracks = tracks or [(number % persons, f"v{number}", 0) for number in range(count)]
    videos = list(dict.fromkeys(key[:2] for key in tracks))
    rest = dict.fromkeys(("start", "first_frame"), np.zeros(count, int))  # not used by the order
    return Runs(
        shard=np.array(groups) // 2,
        row_group=np.array(groups) % 2,
        frames=np.array(frames),
        identity=np.array([identity for identity, _, _ in tracks]),
        video=np.array([videos.index(key[:2]) for key in tracks]),
        track=np.array([track for _, _, track in tracks]),
        identities=tuple(f"id{person}" for person in range(1 + max(identity for identity, _, _ in tracks))),
        videos=tuple(video for _, video in videos),
        **rest,
    )


@st.composite
def populations(draw):
    """One to three data sets of up to 30 runs in up to 12 row groups."""
    sets = []
    for _ in range(draw(st.integers(1, 3))):
        frames = draw(st.lists(st.integers(1, 40), min_size=1, max_size=30))
        groups = sorted(draw(st.lists(st.integers(0, 11), min_size=len(frames), max_size=len(frames))))
        keys = st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.integers(0, 2))
        sets.append(
            stored(frames, groups, tracks=sorted(draw(st.lists(keys, min_size=len(frames), max_size=len(frames)))))
        )
    return order.select_runs(sets, extent=draw(st.integers(1, 8)))


SAMPLING = st.one_of(
    st.just({"samples_per": "frame", "count": 1}),
    st.fixed_dictionaries({"samples_per": st.sampled_from(order.UNITS), "count": st.sampled_from([1, 2, 5])}),
)
SHAPE = st.builds(
    lambda sampling, streams, block: {**sampling, "streams": streams, "block": block},
    SAMPLING,
    st.integers(1, 9),
    st.integers(1, 5),
)


def split(shape):
    """What is sampled, and how that is arranged."""
    sampling = {name: shape[name] for name in ("samples_per", "count")}
    return sampling, {name: value for name, value in shape.items() if name not in sampling}


def as_multiset(runs, samples):
    return Counter(zip(samples.member.tolist(), samples.start.tolist(), samples.key.tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(populations(), SHAPE, SEEDS, st.integers(0, 1000))
def test_an_epoch_holds_each_drawn_sample_once(runs, shape, seed, epoch):
    if not len(runs):
        return
    sampling, _ = split(shape)
    samples = order.order_epoch(runs, seed=seed, epoch=epoch, **shape)
    drawn = order.sample_epoch(runs, **sampling, seed=seed, epoch=epoch)
    assert as_multiset(runs, samples) == as_multiset(runs, drawn)
    assert len(samples) == order.count_samples(runs, **sampling) == len(set(samples.key.tolist()))
    assert np.all(samples.start >= 0)
    assert np.all(samples.start + runs.extent <= runs.frames[samples.member])
    if sampling["samples_per"] == "frame":  # side by side
        counts = np.bincount(samples.member, minlength=len(runs))
        assert counts.tolist() == (runs.frames // runs.extent).tolist()
        starts = [sorted(samples.start[samples.member == run].tolist()) for run in range(len(runs))]
        assert all(np.all(np.diff(values) == runs.extent) for values in starts)
        return
    unit = getattr(runs, sampling["samples_per"])
    assert Counter(unit[samples.member].tolist()) == dict.fromkeys(unit.tolist(), sampling["count"])
    for above, below in pairwise(order.UNITS[order.UNITS.index(sampling["samples_per"]) :]):
        parents, parts = getattr(runs, above), getattr(runs, below)
        for parent in np.unique(parents):  # its samples are shared out evenly
            shares = [np.count_nonzero(parts[samples.member] == part) for part in np.unique(parts[parents == parent])]
            assert max(shares) - min(shares) <= 1


@settings(max_examples=100, deadline=None)
@given(populations(), SAMPLING, SEEDS, st.integers(0, 5))
def test_the_samples_of_a_person_do_not_depend_on_who_else_is_read(runs, sampling, seed, epoch):
    """Draws follow from the seed, the epoch and the identity: leaving people out leaves the others' samples."""
    few = np.flatnonzero(runs.identity % 2 == 0)
    part = replace(runs, **{name: value[few] for name, value in vars(runs).items() if name not in ("extent", "groups")})
    if not len(part):
        return
    samples, alone = (order.sample_epoch(r, **sampling, seed=seed, epoch=epoch) for r in (runs, part))
    kept = np.isin(samples.member, few)
    expected = Counter(zip(samples.member[kept].tolist(), samples.start[kept].tolist(), samples.key[kept], strict=True))
    found = Counter(zip(few[alone.member].tolist(), alone.start.tolist(), alone.key, strict=True))
    assert found == expected


def test_a_track_that_row_groups_cut_is_one_track():
    """The same track whole, and in parts: one sample, whose start is uniform over all starts that the parts leave."""
    runs = order.select_runs(
        [stored([30, 12, 9, 25], [0, 1, 2, 3], tracks=[(0, "a", 0)] * 3 + [(0, "a", 1)])], extent=3
    )
    places = []
    for epoch in range(6000):
        samples = order.sample_epoch(runs, samples_per="track", seed=0, epoch=epoch)
        assert len(samples) == 2
        places += [(m, s) for m, s in zip(samples.member.tolist(), samples.start.tolist(), strict=True) if m < 3]
    counts = Counter(places)
    assert len(places) == 6000
    assert set(counts) == {(m, s) for m, frames in enumerate((30, 12, 9)) for s in range(frames - 2)}
    expected = 6000 / 45
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 78.8, "chi-square, 44 degrees, p = 0.001"


def test_one_sample_of_an_identity_comes_from_a_random_video_then_a_random_track():
    """However many tracks a video has, and however long they are."""
    tracks = [(0, "a", 0), (0, "b", 0), (0, "b", 1), (0, "b", 2), (1, "c", 0)]
    runs = order.select_runs([stored([500, 3, 90, 40, 10], [0] * 5, tracks=tracks)], extent=2)
    members = np.concatenate(
        [order.sample_epoch(runs, samples_per="identity", seed=3, epoch=epoch).member for epoch in range(6000)]
    )
    counts = np.bincount(members, minlength=5)
    expected = np.array([3000, 1000, 1000, 1000])
    assert counts[4] == 6000
    assert ((counts[:4] - expected) ** 2 / expected).sum() < 16.3, "chi-square, 3 degrees of freedom, p = 0.001"


def test_eight_samples_of_an_identity_are_one_of_each_of_its_eight_videos():
    """The paper's epoch of CLP, on its 8 videos a person and on more or fewer."""
    tracks = [(person, f"v{video}", 0) for person, videos in enumerate((8, 20, 3)) for video in range(videos)]
    runs = order.select_runs([stored([30] * len(tracks), np.arange(len(tracks)) // 4, tracks=tracks)], extent=17)
    samples = order.sample_epoch(runs, samples_per="identity", count=8, seed=0, epoch=0)
    videos = [
        Counter(runs.video[samples.member][runs.identity[samples.member] == person].tolist()) for person in range(3)
    ]
    assert list(videos[0].values()) == list(videos[1].values()) == [1] * 8
    assert sorted(videos[2].values()) == [2, 3, 3]
    assert len(order.sample_epoch(runs, samples_per="video", seed=0, epoch=0)) == 31


@settings(max_examples=150, deadline=None)
@given(populations(), SHAPE, SEEDS, st.data())
def test_workers_share_every_epoch_without_gap_or_overlap_also_when_their_number_changes(runs, shape, seed, data):
    """Kill-and-resume at any places, each time on any number of workers: together they read each position once."""
    if not len(runs):
        return
    per_epoch = order.count_samples(runs, **split(shape)[0])
    if not per_epoch:
        return
    cursor, end, seen = 0, 3 * per_epoch, []
    while cursor < end:
        world = data.draw(st.integers(1, 7), label="world")
        batch = world * data.draw(st.integers(1, 6), label="samples of a worker's batch")
        for _ in range(data.draw(st.integers(1, 4), label="batches before the kill")):
            parts = [
                order.worker_positions(start=cursor, stop=cursor + batch, rank=rank, world=world)
                for rank in range(world)
            ]
            assert {len(part) for part in parts} == {batch // world}
            assert all(np.all(part % world == rank) for rank, part in enumerate(parts))
            seen += sorted(np.concatenate(parts).tolist())
            cursor += batch
    assert seen == list(range(cursor))
    counts = Counter(place // per_epoch for place in seen)
    for epoch in range(3):
        samples = order.order_epoch(runs, seed=seed, epoch=epoch, **shape)
        assert len(samples) == per_epoch == counts[epoch]


@settings(max_examples=60, deadline=None)
@given(populations(), SHAPE, SEEDS)
def test_the_order_is_a_function_of_its_arguments_and_differs_between_epochs_and_seeds(runs, shape, seed):
    if not len(runs) or order.count_samples(runs, **split(shape)[0]) < 12:
        return
    first, again = (order.order_epoch(runs, seed=seed, epoch=4, **shape) for _ in range(2))
    for name in ("member", "start", "key"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    distinct = len(set(zip(first.member.tolist(), first.start.tolist(), strict=True)))
    for seed_, epoch in ((seed, 5), (seed + 1, 4)):
        other = order.order_epoch(runs, seed=seed_, epoch=epoch, **shape)
        assert not set(first.key.tolist()) & set(other.key.tolist()), "no sample is augmented alike twice"
        if distinct >= 12:  # few samples have few orders, of which two may be the same
            assert first.member.tolist() != other.member.tolist() or first.start.tolist() != other.start.tolist()


def slow_arrangement(runs, samples, *, seed, epoch, streams, block):
    """The same order by plain loops: row groups dealt to streams once and for all, piles shuffled, turns taken."""
    cards = sorted(range(runs.groups), key=lambda group: int(order.hash64(order.DEAL, group)[0]))
    used = set(runs.group[samples.member].tolist())
    queues = []
    for stream in range(streams):
        hand = [group for group in cards[stream::streams] if group in used]
        hand.sort(key=lambda group: int(order.hash64(seed, epoch, order.GROUP_SHUFFLE, group)[0]))
        queue, pile = [], []
        for turn, group in enumerate(hand):
            pile += [n for n in range(len(samples)) if runs.group[samples.member[n]] == group]
            if (turn + 1 + stream) % block == 0 or turn + 1 == len(hand):
                queue += sorted(pile, key=lambda n: int(samples.key[n]))
                pile = []
        queues.append(queue)
    owners = [(epoch * len(samples) + place) % streams for place in range(len(samples))]
    surplus = [n for stream, queue in enumerate(queues) for n in queue[owners.count(stream) :]]
    gaps = []  # turns that a short stream cannot take, stream by stream
    result = [None] * len(samples)
    for stream, queue in enumerate(queues):
        turns = [place for place, owner in enumerate(owners) if owner == stream]
        for place, sample in zip(turns, queue, strict=False):
            result[place] = sample
        gaps += turns[len(queue) :]
    for place, sample in zip(gaps, surplus, strict=True):
        result[place] = sample
    return result


@settings(max_examples=100, deadline=None)
@given(populations(), SHAPE, SEEDS)
def test_the_order_equals_cards_dealt_by_hand(runs, shape, seed):
    if not len(runs):
        return
    sampling, arrangement = split(shape)
    drawn = order.sample_epoch(runs, **sampling, seed=seed, epoch=2)
    expected = slow_arrangement(runs, drawn, seed=seed, epoch=2, **arrangement)
    ordered = order.order_epoch(runs, seed=seed, epoch=2, **shape)
    assert ordered.member.tolist() == drawn.member[expected].tolist()
    assert ordered.start.tolist() == drawn.start[expected].tolist()


def test_workers_whose_number_divides_the_streams_share_no_row_group():
    """Equal row groups, so that no stream runs out before the others."""
    runs = order.select_runs([stored([10] * 96, np.arange(96) // 2)], extent=3)
    samples = order.order_epoch(runs, samples_per="track", seed=0, epoch=0, streams=8, block=2)
    for world in (1, 2, 4, 8):
        readers = [set(runs.group[samples.member[rank::world]].tolist()) for rank in range(world)]
        assert sum(map(len, readers)) == len(set.union(*readers)) == 48


def test_streams_read_few_row_groups_at_a_time():
    runs = order.select_runs([stored([10] * 400, np.arange(400) // 4)], extent=3)
    samples = order.order_epoch(runs, samples_per="track", seed=0, epoch=0, streams=4, block=3)
    groups = runs.group[samples.member]
    first = {group: np.flatnonzero(groups == group)[0] for group in set(groups.tolist())}
    last = {group: np.flatnonzero(groups == group)[-1] for group in set(groups.tolist())}
    open_at = [sum(first[group] <= place <= last[group] for group in first) for place in range(len(groups))]
    assert max(open_at) <= 4 * 3


def test_starts_are_uniform_over_the_run():
    runs = order.select_runs([stored([12] * 4000, np.arange(4000) // 50)], extent=3)
    starts = order.sample_epoch(runs, samples_per="track", count=5, seed=1, epoch=0).start
    counts = np.bincount(starts, minlength=10)
    expected = len(starts) / 10
    assert len(counts) == 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9, "chi-square, 9 degrees of freedom, p = 0.001"


def test_uniform_numbers_are_uniform_and_unrelated():
    numbers = order.to_uniform(order.hash64(7, np.arange(200)[:, None], np.arange(200)))
    assert 0 <= numbers.min() < numbers.max() < 1
    assert np.allclose(np.histogram(numbers, 20, (0, 1))[0], 2000, atol=200)
    for shifted in (numbers[1:, :] - 0.5, np.roll(numbers, 1, axis=1)[1:, :] - 0.5):
        assert abs(np.mean((numbers[:-1, :] - 0.5) * shifted)) < 0.002


def test_short_runs_and_other_subjects_are_left_out():
    sets = [stored([5, 9, 2, 9, 9, 4], [0, 0, 1, 1, 2, 5]), stored([9, 1, 9], [0, 1, 2])]
    runs = order.select_runs(sets, extent=4, subjects=[["id0", "id2"], ["id0", "id2"]])
    kept = list(zip(runs.dataset.tolist(), runs.run.tolist(), runs.frames.tolist(), strict=True))
    assert kept == [(0, 0, 5), (0, 3, 9), (0, 5, 4), (1, 0, 9), (1, 2, 9)]
    assert len(set(runs.group.tolist())) == 5
    assert len(order.select_runs(sets, extent=4, subjects=[["nobody"], []])) == 0


@pytest.mark.parametrize(("samples_per", "samples"), [("track", 500_000), ("identity", 10_000), ("frame", 500_000)])
def test_half_a_million_runs_are_ordered_quickly(samples_per, samples):
    """A generous bound that only a loop in Python (minutes) would exceed."""
    count = 500_000
    sizes = np.random.default_rng(0).integers(9, 18, count)
    runs = order.Population(
        dataset=np.zeros(count, int),
        run=np.arange(count),
        frames=sizes,
        group=np.arange(count) // 5,
        identity=np.arange(count) // 50,
        video=np.arange(count) // 5,
        track=np.arange(count),
        extent=9,
        groups=count // 5,
    )
    begun = time.process_time()
    ordered = order.order_epoch(runs, samples_per=samples_per, seed=0, epoch=0, streams=64, block=4)
    assert len(ordered) == samples
    assert time.process_time() - begun < 10
