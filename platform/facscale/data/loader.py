"""The moving parts of a stream: threads that fetch row groups and decode frames, and the batches in progress."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from facscale.data import order
from facscale.data.batch_memory import BatchLayout, Buffers
from facscale.data.decoding import BatchDecoder, BatchSlot
from facscale.data.rows import RowGroupReader
from facscale.data.sample_index import SampleIndex
from facscale.data.selection import FrameSelector, SelectedRows
from facscale.data.views import Batch

FRAMES_PER_TASK = 32  # decoded by one task, about: enough to make the cost of handing it to a thread negligible


@dataclass
class PendingRowGroup:
    """A row group that is being fetched or used."""

    selected: Future[SelectedRows]
    remaining: int  # samples that are not yet delivered


@dataclass
class PendingPile:
    """A pile of samples of an epoch, of which some are this worker's."""

    samples: order.Epoch
    group: np.ndarray  # [n] row group of each sample
    rank: np.ndarray  # [n] number of each sample among this worker's samples in its row group
    own_samples: dict[int, np.ndarray]  # row group -> this worker's samples in it
    remaining: int  # this worker's samples that are not yet planned


@dataclass
class PendingBatch:
    """A batch in progress."""

    slots: list[BatchSlot] = field(default_factory=list)
    groups: list[tuple[int, int]] = field(default_factory=list)  # (epoch, row group) of each slot
    batch: Batch = field(default_factory=Batch)
    tasks: list[Future[None]] = field(default_factory=list)


class BatchLoader:
    """One pass over a stream from a given position on."""

    def __init__(self, index: SampleIndex, *, reader: RowGroupReader, fetchers: int, buffers: Buffers) -> None:
        self._index, self._reader = index, reader
        self._selector = FrameSelector(index, reader=reader)
        self._decoder = BatchDecoder(index, selector=self._selector)
        self._fetch = ThreadPoolExecutor(fetchers, thread_name_prefix="facscale-fetch")
        self._decode = ThreadPoolExecutor(index.spec.threads, thread_name_prefix="facscale-decode")
        self._buffers, self._layout = buffers, BatchLayout(index)
        self._plans: dict[int, Future[order.EpochOrder]] = {}
        self._piles: dict[tuple[int, int], PendingPile] = {}  # (epoch, pile)
        self._groups: dict[tuple[int, int], PendingRowGroup] = {}  # (epoch, row group)

    def run(self, start: int) -> Iterator[Batch]:
        """Yield batches from the global position `start` on."""
        prefetch = self._index.spec.prefetch
        fetching: deque[PendingBatch] = deque()
        decoding: deque[PendingBatch] = deque()
        for first in itertools.count(start, self._index.batch_size):
            fetching.append(self._plan_batch(first, origin=start))
            if len(fetching) > prefetch:
                decoding.append(self._start_decoding(fetching.popleft()))
            if len(decoding) > prefetch:
                yield self._finish_batch(decoding.popleft())

    def close(self) -> None:
        """End all threads; those that wait for a store give up."""
        self._reader.stop.set()
        for pool in (self._decode, self._fetch):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._decode, self._fetch):
            pool.shutdown(wait=True)

    def _plan_batch(self, first: int, *, origin: int) -> PendingBatch:
        """Determine the samples of the batch at `first`, and start to fetch their row groups."""
        index, pending = self._index, PendingBatch()
        positions = order.worker_positions(
            start=first, stop=first + index.batch_size, rank=index.rank, world=index.world
        )
        epochs, places = np.divmod(positions, index.samples_per_epoch)
        for epoch in np.unique(epochs).tolist():
            plan = self._get_plan(epoch)
            own_places = places[epochs == epoch]
            piles, numbers = plan.locate(own_places)
            for pile, number, place in zip(piles.tolist(), numbers.tolist(), own_places.tolist(), strict=True):
                self._add_slot(pending, plan, (epoch, pile), number, place=place, origin=origin)
        return pending

    def _add_slot(
        self,
        pending: PendingBatch,
        plan: order.EpochOrder,
        pile_key: tuple[int, int],
        number: int,
        *,
        place: int,
        origin: int,
    ) -> None:
        """Add a sample to a batch, and start to fetch its row group with all of this worker's samples in it."""
        epoch = pile_key[0]
        if pile_key not in self._piles:
            self._piles[pile_key] = self._open_pile(plan, *pile_key, origin=origin)
        pile = self._piles[pile_key]
        key = (epoch, int(pile.group[number]))
        if key not in self._groups:
            own = pile.own_samples[key[1]]
            is_own = self._index.deal.is_own(key[1], rank=self._index.rank, world=self._index.world)
            selected = self._fetch.submit(self._selector.select, pile.samples, own, is_kept=is_own)
            self._groups[key] = PendingRowGroup(selected, remaining=len(own))
        selected, rank = self._groups[key].selected, int(pile.rank[number])
        slot = BatchSlot(len(pending.slots), pile.samples, number, plan, place, selected, rank)
        pending.slots.append(slot)
        pending.groups.append(key)
        pile.remaining -= 1
        if not pile.remaining:
            del self._piles[pile_key]

    def _get_plan(self, epoch: int) -> order.EpochOrder:
        if epoch + 1 not in self._plans:  # so that the next plan is ready when it is needed
            self._plans = {number: plan for number, plan in self._plans.items() if number >= epoch}
            for number in (epoch, epoch + 1):
                if number not in self._plans:
                    self._plans[number] = self._fetch.submit(self._index.order_epoch, number)
        return self._plans[epoch].result()

    def _open_pile(self, plan: order.EpochOrder, epoch: int, number: int, *, origin: int) -> PendingPile:
        """Determine which samples of a pile are this worker's, from the global position `origin` on."""
        index, pile = self._index, plan.expand(number)
        positions = epoch * len(plan) + pile.position
        own = np.flatnonzero((positions % index.world == index.rank) & (positions >= origin))
        by_group = own[np.argsort(pile.group[own], kind="stable")]
        groups, firsts, sizes = np.unique(pile.group[by_group], return_index=True, return_counts=True)
        rank = np.zeros(len(pile.samples), dtype=np.int32)
        rank[by_group] = np.arange(len(by_group)) - np.repeat(firsts, sizes)
        own_samples = dict(zip(groups.tolist(), np.split(by_group, firsts[1:]), strict=True))
        return PendingPile(pile.samples, pile.group, rank, own_samples, remaining=len(own))

    def _start_decoding(self, pending: PendingBatch) -> PendingBatch:
        """Allocate a batch and start to decode its frames."""
        index, count = self._index, len(pending.slots)
        keys = np.array([slot.samples.key[slot.sample] for slot in pending.slots])
        epochs = np.array([epoch for epoch, _ in pending.groups])
        identity = index.get_identities(np.array([slot.samples.member[slot.sample] for slot in pending.slots]))
        pending.batch = self._layout.build(self._buffers.take(self._layout.bytes))
        for name, faces in pending.batch.items():
            faces.identity.copy_(torch.from_numpy(identity))
            faces.augmentation.copy_(torch.from_numpy(index.sample_augmentation(name, keys, epochs=epochs)))
        step = max(1, FRAMES_PER_TASK // sum(view.count for view in index.views.values()))
        for first in range(0, count, step):
            slots = pending.slots[first : first + step]
            pending.tasks.append(self._decode.submit(self._decoder.fill, pending.batch, slots))
        return pending

    def _finish_batch(self, pending: PendingBatch) -> Batch:
        """Wait for a batch, and release the row groups of which all samples are delivered."""
        for task in pending.tasks:
            task.result()
        for key, count in Counter(pending.groups).items():
            self._groups[key].remaining -= count
            if not self._groups[key].remaining:
                del self._groups[key]
        return pending.batch
