"""Which sample stands at which place of the endless stream: pure functions, no files, no state.

The order depends on (seed, epoch, canonical streams, shuffle block) and the data alone. The number of workers only
decides who reads which position, so the place in the stream is one integer, the same for every worker.

How an epoch is laid out: its row groups are permuted and dealt to the canonical streams like cards; each stream shuffles
the samples of `block` neighbouring row groups together; the streams then take turns, one sample each. Worker r of W takes
the positions p with p % W == r: where W divides the number of streams, that is a fixed share of the streams, and no two
workers read the same row group (but for the epoch's end, where the streams run out one after the other).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from facscale.data.manifest import Runs

PerTrack = int | Literal["all"]
CARDS = -1  # stands where a data set's number stands in other draws, so that no draw repeats another


@dataclass(frozen=True)
class Population:
    """All runs that are long enough, of all data sets, as arrays [R]."""

    dataset: np.ndarray  # number of the data set
    run: np.ndarray  # number of the run within its data set
    frames: np.ndarray
    group: np.ndarray  # number of the row group, counted over all data sets
    extent: int  # frames that a sample covers from its start on

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


def hashed(*parts: np.ndarray | int) -> np.ndarray:
    """Well-mixed uint64 of whole numbers, elementwise with broadcasting (the finaliser of splitmix64, chained)."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        word = np.asarray(part).astype(np.uint64, copy=False).reshape(np.shape(part) or (1,))
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(bits: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from uint64."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def population(runs: Sequence[Runs], *, extent: int, subjects: Sequence[Collection[str]] | None = None) -> Population:
    """The runs of at least `extent` frames; `subjects`: of these identities of each data set alone."""
    dataset, run, frames, group = [], [], [], []
    groups_before = 0
    for number, stored in enumerate(runs):
        # Row groups are numbered densely in stored order: the pair of (shard, row group) as one word, then its rank.
        words = stored.shard.astype(np.int64) << 32 | stored.row_group.astype(np.int64)
        distinct, rank = np.unique(words, return_inverse=True)
        keep = stored.frames >= extent
        if subjects is not None:
            keep &= stored.of(subjects[number])
        dataset.append(np.full(int(keep.sum()), number))
        run.append(np.flatnonzero(keep))
        frames.append(stored.frames[keep].astype(np.int64))
        group.append(rank[keep] + groups_before)
        groups_before += len(distinct)
    return Population(
        dataset=np.concatenate(dataset),
        run=np.concatenate(run),
        frames=np.concatenate(frames),
        group=np.concatenate(group),
        extent=extent,
    )


def samples_of_runs(runs: Population, *, per_track: PerTrack) -> np.ndarray:
    """How many samples each run gives in an epoch [R]: the same in every epoch."""
    if per_track == "all":
        return runs.frames // runs.extent
    return np.full(len(runs), per_track)


def draw(runs: Population, *, per_track: PerTrack, seed: int, epoch: int) -> Epoch:
    """The samples of an epoch, in stored order.

    `per_track=k`: k starts, uniform over the run; "all": windows side by side that leave a random part out at both ends.
    """
    counts = samples_of_runs(runs, per_track=per_track)
    member = np.repeat(np.arange(len(runs)), counts)
    turn = np.arange(len(member)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... within the run
    bits = hashed(seed, epoch, runs.dataset, runs.run)
    if per_track == "all":
        spare = runs.frames - counts * runs.extent
        phase = (uniform(bits) * (spare + 1)).astype(np.int64)
        start = phase[member] + turn * runs.extent
    else:
        room = (runs.frames - runs.extent + 1)[member]
        start = (uniform(hashed(bits[member], turn)) * room).astype(np.int64)
    return Epoch(member=member, start=start, key=hashed(bits[member], start, turn))


def arrange(runs: Population, *, per_track: PerTrack, seed: int, epoch: int, streams: int, block: int) -> Epoch:
    """The samples of an epoch, in the order in which they are trained on."""
    samples = draw(runs, per_track=per_track, seed=seed, epoch=epoch)
    groups, dense = np.unique(runs.group, return_inverse=True)
    card = np.empty(len(groups), dtype=np.int64)  # place of each row group in the shuffled pack
    card[np.argsort(hashed(seed, epoch, CARDS, groups), kind="stable")] = np.arange(len(groups))
    stream, turn = card % streams, card // streams
    # Streams begin new blocks at different times, so that not all of them ask for row groups at once.
    pile = stream * (len(groups) + streams) + (turn + stream) // block
    pile_of_sample = pile[dense][samples.member]
    shuffled = np.lexsort((samples.key, pile_of_sample))
    stream_of_sample = stream[dense][samples.member][shuffled]
    lengths = np.bincount(stream_of_sample, minlength=streams)
    within = np.arange(len(shuffled)) - (np.cumsum(lengths) - lengths)[stream_of_sample]
    order = shuffled[np.argsort(within * streams + stream_of_sample)]
    return Epoch(member=samples.member[order], start=samples.start[order], key=samples.key[order])


def of_worker(*, start: int, stop: int, rank: int, world: int) -> np.ndarray:
    """The global positions in [start, stop) that worker `rank` of `world` reads, ascending."""
    return np.arange(start + (rank - start) % world, stop, world)
