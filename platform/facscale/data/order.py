"""The order of the samples in the endless stream: pure functions without files or state.

The order depends only on (seed, epoch, canonical streams, shuffle block) and on the data. The number of workers decides
only who reads which position, so the position in the stream is a single integer, the same for every worker.

Layout of an epoch: the row groups of its samples are shuffled and dealt to the canonical streams like cards; each stream shuffles the
samples of `block` consecutive row groups together; the streams then take turns, one sample each. Worker r of W takes the
positions p with p % W == r: where W divides the number of streams, that is a fixed share of the streams, and no two
workers read the same row group (except at the end of the epoch, where the streams run out one after the other).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from facscale.data.manifest import Runs

SamplesPer = Literal["identity", "video", "track", "frame"]
UNITS = ("identity", "video", "track")  # from the largest to the smallest; a track consists of runs
# These take the place of the data set's number in the other hashes, so that no two hashes coincide.
GROUP_SHUFFLE, SHARE, DRAW = -1, -2, -3


@dataclass(frozen=True)
class Population:
    """All runs of all data sets that are long enough for a sample, as arrays [R]."""

    dataset: np.ndarray  # number of the data set
    run: np.ndarray  # number of the run within its data set
    frames: np.ndarray
    group: np.ndarray  # number of the row group, counted over all data sets
    identity: np.ndarray  # number of the identity, counted over all data sets; likewise:
    video: np.ndarray
    track: np.ndarray
    extent: int  # frames that a sample spans from its start

    def __len__(self) -> int:
        return len(self.run)


@dataclass(frozen=True)
class Epoch:
    """The samples of one epoch in order, as arrays [N]."""

    member: np.ndarray  # index into the population
    start: np.ndarray  # first frame of the sample within its run
    key: np.ndarray  # uint64, the seed of everything random about this sample

    def __len__(self) -> int:
        return len(self.member)


def hash64(*parts: np.ndarray | int) -> np.ndarray:
    """Hash integers to well-mixed uint64, elementwise with broadcasting (the finaliser of splitmix64, chained)."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        word = np.asarray(part).astype(np.uint64, copy=False).reshape(np.shape(part) or (1,))
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def to_uniform(bits: np.ndarray) -> np.ndarray:
    """Convert uint64 to float64 in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def select_runs(runs: Sequence[Runs], *, extent: int, subjects: Sequence[Collection[str]] | None = None) -> Population:
    """Select the runs of at least `extent` frames; `subjects`: only those of these identities, one list per data set."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("dataset", "run", "frames", "group", *UNITS)}
    before = dict.fromkeys(("group", *UNITS), 0)  # numbers that earlier data sets have taken
    for number, stored in enumerate(runs):
        keep = stored.frames >= extent
        if subjects is not None:
            keep &= stored.mask_subjects(subjects[number])
        columns["dataset"].append(np.full(int(keep.sum()), number))
        columns["run"].append(np.flatnonzero(keep))
        columns["frames"].append(stored.frames[keep].astype(np.int64))
        codes = {
            "group": _rank_pairs(stored.shard, stored.row_group),
            "identity": stored.identity.astype(np.int64),
            "video": stored.video.astype(np.int64),
            "track": _rank_pairs(stored.video, stored.track),
        }
        for name, values in codes.items():
            columns[name].append(values[keep] + before[name])
            before[name] += int(values.max(initial=-1)) + 1
    return Population(**{name: np.concatenate(parts) for name, parts in columns.items()}, extent=extent)


def _rank_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number the distinct pairs of two arrays [N] of numbers from 0 in ascending order; returns the number of each pair [N]."""
    words = first.astype(np.int64) << 32 | second.astype(np.int64)
    rank: np.ndarray = np.unique(words, return_inverse=True)[1]
    return rank


def count_samples(runs: Population, *, samples_per: SamplesPer, count: int = 1) -> int:
    """Count the samples of an epoch; the number is the same in every epoch."""
    if samples_per == "frame":
        return int((runs.frames // runs.extent).sum())
    return count * len(np.unique(getattr(runs, samples_per)))


def sample_epoch(runs: Population, *, samples_per: SamplesPer, count: int = 1, seed: int, epoch: int) -> Epoch:
    """Sample an epoch: `count` samples of each identity, video or track, or each frame once. Not in the order of training.

    The samples of an identity are shared out to its videos, those of a video to its tracks: each gets one before any gets
    a second, and chance decides which get one more than others. A sample starts anywhere in its track with the same
    probability, so a run that the edge of a row group cuts off counts by its length. All draws follow from (seed, epoch)
    and the unit alone.
    """
    if samples_per == "frame":
        return _cut_windows(runs, seed=seed, epoch=epoch)
    units = [getattr(runs, unit) for unit in UNITS[UNITS.index(samples_per) :]]
    largest = np.unique(units[0])
    chosen, turn = np.repeat(largest, count), np.tile(np.arange(count), len(largest))
    for level, (above, below) in enumerate(pairwise(units), UNITS.index(samples_per)):
        chosen, turn = _share_out(chosen, turn, above=above, below=below, level=level, seed=seed, epoch=epoch)
    return _draw_starts(runs, track=chosen, turn=turn, seed=seed, epoch=epoch)


def _cut_windows(runs: Population, *, seed: int, epoch: int) -> Epoch:
    """Cut each run into adjacent windows of `extent` frames; what is left over is at both ends, divided at random."""
    counts = runs.frames // runs.extent
    member = np.repeat(np.arange(len(runs)), counts)
    turn = np.arange(len(member)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... within the run
    bits = hash64(seed, epoch, runs.dataset, runs.run)
    phase = (to_uniform(bits) * (runs.frames - counts * runs.extent + 1)).astype(np.int64)
    start = phase[member] + turn * runs.extent
    return Epoch(member=member, start=start, key=hash64(bits[member], start, turn))


def _share_out(
    units: np.ndarray, turn: np.ndarray, *, above: np.ndarray, below: np.ndarray, level: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give each sample one of the parts of its unit, in turns: returns its part [N] and its number in that part [N].

    units, turn [N]: the unit of each sample, and its number among the samples of that unit; above, below [R]: unit and
    part of each run.
    """
    parts, runs = np.unique(below, return_index=True)
    shuffled = np.lexsort((hash64(seed, epoch, SHARE, level, parts), above[runs]))
    distinct, first, number = np.unique(above[runs][shuffled], return_index=True, return_counts=True)
    place = np.searchsorted(distinct, units)
    return parts[shuffled][first[place] + turn % number[place]], turn // number[place]


def _draw_starts(runs: Population, *, track: np.ndarray, turn: np.ndarray, seed: int, epoch: int) -> Epoch:
    """Draw the start of each sample, uniform over all starts in the runs of its track.

    track, turn [N]: the track of each sample, and its number among the samples of that track.
    """
    by_track = np.argsort(runs.track, kind="stable")
    starts = (runs.frames - runs.extent + 1)[by_track]
    end = np.cumsum(starts)
    tracks, first, number = np.unique(runs.track[by_track], return_index=True, return_counts=True)
    begin, stop = (end - starts)[first], end[first + number - 1]
    place = np.searchsorted(tracks, track)
    bits = hash64(seed, epoch, DRAW, track)
    drawn = begin[place] + (to_uniform(hash64(bits, turn)) * (stop - begin)[place]).astype(np.int64)
    position = np.searchsorted(end, drawn, side="right")
    start = drawn - (end - starts)[position]
    return Epoch(member=by_track[position], start=start, key=hash64(bits, start, turn))


def order_epoch(
    runs: Population, *, samples_per: SamplesPer, count: int = 1, seed: int, epoch: int, streams: int, block: int
) -> Epoch:
    """Sample an epoch, in the order of training."""
    samples = sample_epoch(runs, samples_per=samples_per, count=count, seed=seed, epoch=epoch)
    groups, dense = np.unique(runs.group[samples.member], return_inverse=True)
    card = np.empty(len(groups), dtype=np.int64)  # position of each row group in the shuffled deck
    card[np.argsort(hash64(seed, epoch, GROUP_SHUFFLE, groups), kind="stable")] = np.arange(len(groups))
    stream, turn = card % streams, card // streams
    # The streams start new blocks at different times, so that they do not all request row groups at once.
    pile = stream * (len(groups) + streams) + (turn + stream) // block
    pile_of_sample = pile[dense]
    shuffled = np.lexsort((samples.key, pile_of_sample))
    stream_of_sample = stream[dense][shuffled]
    lengths = np.bincount(stream_of_sample, minlength=streams)
    within = np.arange(len(shuffled)) - (np.cumsum(lengths) - lengths)[stream_of_sample]
    order = shuffled[np.argsort(within * streams + stream_of_sample)]
    return Epoch(member=samples.member[order], start=samples.start[order], key=samples.key[order])


def worker_positions(*, start: int, stop: int, rank: int, world: int) -> np.ndarray:
    """Return the global positions in [start, stop) that worker `rank` of `world` reads, ascending."""
    return np.arange(start + (rank - start) % world, stop, world)
