"""The order of the samples in the endless stream: pure functions without files or state.

The order depends only on (seed, epoch, canonical streams, shuffle block) and on the data. The number of workers decides
only who reads which position, so the position in the stream is a single integer, the same for every worker.

Layout of an epoch: its row groups are shuffled and dealt to the canonical streams like cards; each stream shuffles the
samples of `block` consecutive row groups together; the streams then take turns, one sample each. Worker r of W takes the
positions p with p % W == r: where W divides the number of streams, that is a fixed share of the streams, and no two
workers read the same row group (except at the end of the epoch, where the streams run out one after the other).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from facscale.data.manifest import Runs

PerTrack = int | Literal["all"]
GROUP_SHUFFLE = -1  # takes the place of the data set's number in the other hashes, so that no two hashes coincide


@dataclass(frozen=True)
class Population:
    """All runs of all data sets that are long enough for a sample, as arrays [R]."""

    dataset: np.ndarray  # number of the data set
    run: np.ndarray  # number of the run within its data set
    frames: np.ndarray
    group: np.ndarray  # number of the row group, counted over all data sets
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
    dataset, run, frames, group = [], [], [], []
    groups_before = 0
    for number, stored in enumerate(runs):
        # Row groups are numbered densely in stored order: the pair (shard, row group) as one word, then its rank.
        words = stored.shard.astype(np.int64) << 32 | stored.row_group.astype(np.int64)
        distinct, rank = np.unique(words, return_inverse=True)
        keep = stored.frames >= extent
        if subjects is not None:
            keep &= stored.mask_subjects(subjects[number])
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


def count_samples(runs: Population, *, per_track: PerTrack) -> np.ndarray:
    """Count the samples that each run contributes to an epoch [R]; the numbers are the same in every epoch."""
    if per_track == "all":
        return runs.frames // runs.extent
    return np.full(len(runs), per_track)


def sample_epoch(runs: Population, *, per_track: PerTrack, seed: int, epoch: int) -> Epoch:
    """Sample an epoch, in stored order.

    `per_track=k`: k starts, uniform over the run; "all": adjacent windows with a random part left out at both ends.
    """
    counts = count_samples(runs, per_track=per_track)
    member = np.repeat(np.arange(len(runs)), counts)
    turn = np.arange(len(member)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... within the run
    bits = hash64(seed, epoch, runs.dataset, runs.run)
    if per_track == "all":
        spare = runs.frames - counts * runs.extent
        phase = (to_uniform(bits) * (spare + 1)).astype(np.int64)
        start = phase[member] + turn * runs.extent
    else:
        starts = (runs.frames - runs.extent + 1)[member]
        start = (to_uniform(hash64(bits[member], turn)) * starts).astype(np.int64)
    return Epoch(member=member, start=start, key=hash64(bits[member], start, turn))


def order_epoch(runs: Population, *, per_track: PerTrack, seed: int, epoch: int, streams: int, block: int) -> Epoch:
    """Sample an epoch, in the order of training."""
    samples = sample_epoch(runs, per_track=per_track, seed=seed, epoch=epoch)
    groups, dense = np.unique(runs.group, return_inverse=True)
    card = np.empty(len(groups), dtype=np.int64)  # position of each row group in the shuffled deck
    card[np.argsort(hash64(seed, epoch, GROUP_SHUFFLE, groups), kind="stable")] = np.arange(len(groups))
    stream, turn = card % streams, card // streams
    # The streams start new blocks at different times, so that they do not all request row groups at once.
    pile = stream * (len(groups) + streams) + (turn + stream) // block
    pile_of_sample = pile[dense][samples.member]
    shuffled = np.lexsort((samples.key, pile_of_sample))
    stream_of_sample = stream[dense][samples.member][shuffled]
    lengths = np.bincount(stream_of_sample, minlength=streams)
    within = np.arange(len(shuffled)) - (np.cumsum(lengths) - lengths)[stream_of_sample]
    order = shuffled[np.argsort(within * streams + stream_of_sample)]
    return Epoch(member=samples.member[order], start=samples.start[order], key=samples.key[order])


def worker_positions(*, start: int, stop: int, rank: int, world: int) -> np.ndarray:
    """Return the global positions in [start, stop) that worker `rank` of `world` reads, ascending."""
    return np.arange(start + (rank - start) % world, stop, world)
