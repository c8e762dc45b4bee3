"""The order of the samples in the endless stream: pure functions without files or state.

The order depends only on (seed, epoch, canonical streams, shuffle block) and on the data. The number of workers decides
only who reads which position, so the position in the stream is a single integer, the same for every worker.

Each row group belongs to one canonical stream, in every epoch, for every seed. Position p of the endless stream is the turn of
canonical stream p % streams, and worker r of W takes the positions p with p % W == r. Where W divides the number of streams,
a worker therefore reads the row groups of its own streams, the same ones in every epoch: what a node has cached is what it
needs again.

Within an epoch a stream shuffles its row groups, and the samples of `block` consecutive ones together. Streams do not have
equally many samples, but equally many turns: the last samples of the long ones take the turns that the short ones lack. These
few are the only samples that the workers of other streams read.

No list of all samples is made: `EpochOrder` computes the piece around a position when it is needed.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from facscale.data.manifest import Runs

VERSION = 2  # of the order; checkpoints have it, for a position means nothing in another order
SamplesPer = Literal["identity", "video", "track", "frame"]
UNITS = ("identity", "video", "track")  # from the largest to the smallest; a track consists of runs
# These take the place of the data set's number in the other hashes, so that no two hashes coincide.
GROUP_SHUFFLE, SHARE, DRAW, DEAL = -1, -2, -3, -4
KEPT_PILES = 64  # expanded piles in memory, beside those in use


@dataclass(frozen=True)
class Population:
    """All runs of all data sets that are long enough for a sample, as arrays [R], int32, in stored order."""

    dataset: np.ndarray  # number of the data set
    run: np.ndarray  # number of the run within its data set
    frames: np.ndarray
    group: np.ndarray  # number of the row group, counted over all data sets
    identity: np.ndarray  # number of the identity, counted over all data sets; likewise:
    video: np.ndarray
    track: np.ndarray
    extent: int  # frames that a sample spans from its start
    groups: int  # row groups of all data sets, also of those runs that were not selected

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
        columns["dataset"].append(np.full(int(keep.sum()), number, np.int32))
        columns["run"].append(np.flatnonzero(keep).astype(np.int32))
        columns["frames"].append(stored.frames[keep].astype(np.int32))
        codes = {
            "group": _rank_pairs(stored.shard, stored.row_group),
            "identity": stored.identity,
            "video": stored.video,
            "track": _rank_pairs(stored.video, stored.track),
        }
        for name, values in codes.items():
            columns[name].append((values[keep] + before[name]).astype(np.int32))
            before[name] += int(values.max(initial=-1)) + 1
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Population(**arrays, extent=extent, groups=before["group"])


def _rank_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number the distinct pairs of two arrays [N] of numbers from 0 in ascending order; returns the number of each pair [N]."""
    words = first.astype(np.int64) << 32 | second.astype(np.int64)
    rank: np.ndarray = np.unique(words, return_inverse=True)[1]
    return rank


def count_samples(runs: Population, *, samples_per: SamplesPer, count: int = 1) -> int:
    """Count the samples of an epoch; the number is the same in every epoch."""
    if samples_per == "frame":
        return int((runs.frames // runs.extent).sum(dtype=np.int64))
    return count * len(np.unique(getattr(runs, samples_per)))


def sample_epoch(runs: Population, *, samples_per: SamplesPer, count: int = 1, seed: int, epoch: int) -> Epoch:
    """Sample an epoch: `count` samples of each identity, video or track, or each frame once. Not in the order of training.

    All samples are in memory at once; `EpochOrder` avoids that where each frame is a sample.

    The samples of an identity are shared out to its videos, those of a video to its tracks: each gets one before any gets
    a second, and chance decides which get one more than others. A sample starts anywhere in its track with the same
    probability, so a run that the edge of a row group cuts off counts by its length. All draws follow from (seed, epoch)
    and the unit alone.
    """
    if samples_per == "frame":
        return _cut_windows(runs, np.arange(len(runs), dtype=np.int32), seed=seed, epoch=epoch)
    units = [getattr(runs, unit) for unit in UNITS[UNITS.index(samples_per) :]]
    largest = np.unique(units[0])
    chosen, turn = np.repeat(largest, count), np.tile(np.arange(count), len(largest))
    for level, (above, below) in enumerate(pairwise(units), UNITS.index(samples_per)):
        chosen, turn = _share_out(chosen, turn, above=above, below=below, level=level, seed=seed, epoch=epoch)
    return _draw_starts(runs, track=chosen, turn=turn, seed=seed, epoch=epoch)


def _cut_windows(runs: Population, chosen: np.ndarray, *, seed: int, epoch: int) -> Epoch:
    """Cut the runs `chosen` [C] into adjacent windows of `extent` frames; what is left over is at both ends, divided at random."""
    frames = runs.frames[chosen].astype(np.int64)
    counts = frames // runs.extent
    owner = np.repeat(np.arange(len(chosen)), counts)
    turn = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... within the run
    bits = hash64(seed, epoch, runs.dataset[chosen], runs.run[chosen])
    phase = (to_uniform(bits) * (frames - counts * runs.extent + 1)).astype(np.int64)
    start = phase[owner] + turn * runs.extent
    return Epoch(member=chosen[owner], start=start.astype(np.int32), key=hash64(bits[owner], start, turn))


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
    starts = (runs.frames - runs.extent + 1)[by_track].astype(np.int64)
    end = np.cumsum(starts)
    tracks, first, number = np.unique(runs.track[by_track], return_index=True, return_counts=True)
    begin, stop = (end - starts)[first], end[first + number - 1]
    place = np.searchsorted(tracks, track)
    bits = hash64(seed, epoch, DRAW, track)
    drawn = begin[place] + (to_uniform(hash64(bits, turn)) * (stop - begin)[place]).astype(np.int64)
    position = np.searchsorted(end, drawn, side="right")
    start = drawn - (end - starts)[position]
    key = hash64(bits, start, turn)
    return Epoch(member=by_track[position].astype(np.int32), start=start.astype(np.int32), key=key)


@dataclass(frozen=True)
class Pile:
    """The samples that are shuffled together, as arrays [n] in shuffled order."""

    samples: Epoch
    group: np.ndarray  # row group of each
    position: np.ndarray  # in the epoch, of each


class Deal:
    """The canonical stream of each row group: the same in every epoch, for every seed and every choice of people."""

    def __init__(self, runs: Population, *, streams: int) -> None:
        """Deal the row groups like cards, in an order that depends on their numbers alone."""
        self.runs, self.streams = runs, streams
        card = np.empty(runs.groups, dtype=np.int64)
        card[np.argsort(hash64(DEAL, np.arange(runs.groups)), kind="stable")] = np.arange(runs.groups)
        self.stream = (card % streams).astype(np.int32)  # of each row group
        is_sorted = bool(np.all(runs.group[1:] >= runs.group[:-1]))
        self.run_order = None if is_sorted else np.argsort(runs.group, kind="stable").astype(np.int32)
        by_group = runs.group if self.run_order is None else runs.group[self.run_order]
        self.first_run = np.searchsorted(by_group, np.arange(runs.groups + 1))  # in `run_order`

    def list_runs(self, groups: np.ndarray) -> np.ndarray:
        """Return the runs of the given row groups, ascending within each."""
        runs = np.concatenate([np.arange(*self.first_run[[group, group + 1]], dtype=np.int32) for group in groups])
        return runs if self.run_order is None else self.run_order[runs]

    def is_own(self, group: int, *, rank: int, world: int) -> bool:
        """Return whether a worker reads samples of a row group by its own turns, and not in place of a short stream's."""
        shared = math.gcd(self.streams, world)
        return bool(self.stream[group] % shared == rank % shared)


class EpochOrder:
    """The samples of one epoch in the order of training. Safe for use by several threads."""

    def __init__(
        self, deal: Deal, *, samples_per: SamplesPer, count: int = 1, seed: int, epoch: int, block: int
    ) -> None:
        """Compute how many samples each stream has, and where the piles are; the samples themselves when they are needed."""
        self._deal, self._seed, self._epoch = deal, seed, epoch
        runs, streams = deal.runs, deal.streams
        self._drawn: Epoch | None = None  # sorted by row group; None: each frame once
        if samples_per == "frame":
            windows = np.bincount(runs.group, weights=runs.frames // runs.extent, minlength=runs.groups)
            sizes = windows.astype(np.int64)
        else:
            drawn = sample_epoch(runs, samples_per=samples_per, count=count, seed=seed, epoch=epoch)
            by_group = np.argsort(runs.group[drawn.member], kind="stable")
            self._drawn = Epoch(drawn.member[by_group], drawn.start[by_group], drawn.key[by_group])
            sizes = np.bincount(runs.group[drawn.member], minlength=runs.groups)
            self._first_drawn = np.concatenate([[0], np.cumsum(sizes)])
        self._length = int(sizes.sum())
        groups = np.flatnonzero(sizes)
        shuffled = np.lexsort((hash64(seed, epoch, GROUP_SHUFFLE, groups), deal.stream[groups]))
        self._groups = groups[shuffled]  # stream by stream
        stream = deal.stream[self._groups]
        turn = np.arange(len(groups)) - np.searchsorted(stream, stream)
        # The streams start new piles at different times, so that they do not all request row groups at once.
        number = stream.astype(np.int64) * (len(groups) + streams) + (turn + stream) // block
        self._first_group = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1, [len(groups)]])
        self._sizes = sizes[self._groups]
        ends = np.concatenate([[0], np.cumsum(self._sizes)])
        self._pile_start = ends[self._first_group]  # counted over all streams, stream by stream
        lengths = np.bincount(stream, weights=self._sizes, minlength=streams).astype(np.int64)
        self._stream_start = np.cumsum(lengths) - lengths
        # Position p of the epoch is position epoch * length + p of the endless stream.
        self._first_turn = (np.arange(streams) - epoch * self._length) % streams  # first position of each stream
        turns = np.maximum(0, -(-(self._length - self._first_turn) // streams))
        self._own = np.minimum(lengths, turns)  # samples that stay in their stream
        self._surplus_start = np.concatenate([[0], np.cumsum(lengths - self._own)])
        self._deficit_start = np.concatenate([[0], np.cumsum(turns - self._own)])
        self._piles: OrderedDict[int, Pile] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pile of each position [n], and its index within the pile."""
        streams = self._deal.streams
        stream = (positions + self._epoch * self._length) % streams
        turn = (positions - self._first_turn[stream]) // streams
        is_own = turn < self._own[stream]
        surplus = self._deficit_start[stream] + turn - self._own[stream]
        giver = np.searchsorted(self._surplus_start, np.where(is_own, 0, surplus), side="right") - 1
        giver = np.minimum(giver, streams - 1)
        place = np.where(
            is_own,
            self._stream_start[stream] + turn,
            self._stream_start[giver] + self._own[giver] + surplus - self._surplus_start[giver],
        )
        pile = np.searchsorted(self._pile_start, place, side="right") - 1
        return pile, place - self._pile_start[pile]

    def expand(self, number: int) -> Pile:
        """Return the samples of a pile."""
        with self._lock:
            if number in self._piles:
                self._piles.move_to_end(number)
                return self._piles[number]
        pile = self._expand(number)
        with self._lock:
            self._piles[number] = pile
            if len(self._piles) > KEPT_PILES:
                self._piles.popitem(last=False)
        return pile

    def _expand(self, number: int) -> Pile:
        groups = self._groups[self._first_group[number] : self._first_group[number + 1]]
        if self._drawn is None:
            samples = _cut_windows(self._deal.runs, self._deal.list_runs(groups), seed=self._seed, epoch=self._epoch)
        else:
            places = np.concatenate([np.arange(*self._first_drawn[[group, group + 1]]) for group in groups])
            samples = Epoch(self._drawn.member[places], self._drawn.start[places], self._drawn.key[places])
        order = np.argsort(samples.key, kind="stable")
        samples = Epoch(samples.member[order], samples.start[order], samples.key[order])
        place = self._pile_start[number] + np.arange(len(order))
        return Pile(
            samples, self._deal.runs.group[samples.member], self._find_positions(place, self._deal.stream[groups[0]])
        )

    def _find_positions(self, place: np.ndarray, stream: int) -> np.ndarray:
        """Return the positions of places [n] in one stream: the inverse of `locate`."""
        turn = place - self._stream_start[stream]
        is_own = turn < self._own[stream]
        surplus = np.where(is_own, 0, self._surplus_start[stream] + turn - self._own[stream])
        taker = np.minimum(np.searchsorted(self._deficit_start, surplus, side="right") - 1, self._deal.streams - 1)
        in_taker = (
            self._first_turn[taker] + (self._own[taker] + surplus - self._deficit_start[taker]) * self._deal.streams
        )
        positions: np.ndarray = np.where(is_own, self._first_turn[stream] + turn * self._deal.streams, in_taker)
        return positions

    def take(self, positions: np.ndarray) -> Epoch:
        """Return the samples at positions [n] of the epoch."""
        pile, index = self.locate(positions)
        member, start, key = (np.empty(len(positions), kind) for kind in (np.int32, np.int32, np.uint64))
        by_pile = np.argsort(pile, kind="stable")
        piles, firsts = np.unique(pile[by_pile], return_index=True)
        for number, own in zip(piles.tolist(), np.split(by_pile, firsts[1:]), strict=True):
            samples, chosen = self.expand(number).samples, index[own]
            member[own], start[own], key[own] = samples.member[chosen], samples.start[chosen], samples.key[chosen]
        return Epoch(member, start, key)

    def count_by_group(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row groups [G] that the epoch reads, and the number of samples in each [G]."""
        return self._groups, self._sizes


def order_epoch(
    runs: Population, *, samples_per: SamplesPer, count: int = 1, seed: int, epoch: int, streams: int, block: int
) -> Epoch:
    """Sample an epoch, in the order of training; all of it at once."""
    deal = Deal(runs, streams=streams)
    order = EpochOrder(deal, samples_per=samples_per, count=count, seed=seed, epoch=epoch, block=block)
    return order.take(np.arange(len(order)))


def worker_positions(*, start: int, stop: int, rank: int, world: int) -> np.ndarray:
    """Return the global positions in [start, stop) that worker `rank` of `world` reads, ascending."""
    return np.arange(start + (rank - start) % world, stop, world)
