"""The moving parts of a stream: threads that fetch row groups and decode frames, and the batches in progress."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from facscale.data import order
from facscale.data.decoding import BatchDecoder, BatchSlot
from facscale.data.rows import RowGroupReader
from facscale.data.sample_index import SampleIndex
from facscale.data.selection import FrameSelector, SelectedRows
from facscale.data.views import Batch, Faces

FRAMES_PER_TASK = 16  # decoded by one task: enough to make the cost of handing it to a thread negligible


@dataclass
class PendingRowGroup:
    """A row group that is being fetched or used."""

    selected: Future[SelectedRows]
    remaining: int  # samples that are not yet delivered


@dataclass(frozen=True)
class EpochPlan:
    """An epoch, from this worker's first sample on."""

    samples: order.Epoch
    group_of: np.ndarray  # [N] row group of each sample
    rank_of: np.ndarray  # [N] number of each sample among this worker's samples in its row group
    own_samples: dict[int, np.ndarray]  # row group -> this worker's samples in it


@dataclass
class PendingBatch:
    """A batch in progress."""

    slots: list[BatchSlot] = field(default_factory=list)
    groups: list[tuple[int, int]] = field(default_factory=list)  # (epoch, row group) of each slot
    batch: Batch = field(default_factory=Batch)
    tasks: list[Future[None]] = field(default_factory=list)


class BufferPool:
    """Image buffers that are reused once the consumer has dropped the tensor: fresh pages cost as much as decoding."""

    def __init__(self, *, pin: bool) -> None:
        self._pin = pin
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return an uninitialised uint8 tensor."""
        if self._pin:  # torch keeps its own pool of pinned memory, which also waits for copies in progress
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        free = self._free.setdefault(shape, [])
        base = free.pop() if free else np.empty(shape, dtype=np.uint8)
        lent = base[:]  # lives exactly as long as the tensor's storage
        weakref.finalize(lent, free.append, base).atexit = False
        return torch.from_numpy(lent)


class BatchLoader:
    """One pass over a stream from a given position on."""

    def __init__(self, index: SampleIndex, *, reader: RowGroupReader, fetchers: int) -> None:
        self._index, self._reader = index, reader
        self._selector = FrameSelector(index, reader=reader)
        self._decoder = BatchDecoder(index, selector=self._selector)
        self._fetch = ThreadPoolExecutor(fetchers, thread_name_prefix="facscale-fetch")
        self._decode = ThreadPoolExecutor(index.spec.threads, thread_name_prefix="facscale-decode")
        self._buffers = BufferPool(pin=index.pin)
        self._plans: dict[int, Future[EpochPlan]] = {}
        self._groups: dict[tuple[int, int], PendingRowGroup] = {}

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
        for epoch, sample in zip(
            *(part.tolist() for part in np.divmod(positions, index.samples_per_epoch)), strict=True
        ):
            plan = self._get_plan(epoch, origin=origin)
            key = (epoch, int(plan.group_of[sample]))
            if key not in self._groups:
                own = plan.own_samples[key[1]]
                selected = self._fetch.submit(self._selector.select, plan.samples, own)
                self._groups[key] = PendingRowGroup(selected, remaining=len(own))
            slot = BatchSlot(
                len(pending.slots), plan.samples, sample, self._groups[key].selected, int(plan.rank_of[sample])
            )
            pending.slots.append(slot)
            pending.groups.append(key)
        return pending

    def _get_plan(self, epoch: int, *, origin: int) -> EpochPlan:
        if epoch + 1 not in self._plans:  # so that the next plan is ready when it is needed
            self._plans = {number: plan for number, plan in self._plans.items() if number >= epoch}
            for number in (epoch, epoch + 1):
                if number not in self._plans:
                    self._plans[number] = self._fetch.submit(self._plan_epoch, number, origin)
        return self._plans[epoch].result()

    def _plan_epoch(self, epoch: int, origin: int) -> EpochPlan:
        index = self._index
        samples = index.sample_epoch(epoch)
        before = epoch * len(samples)
        own = order.worker_positions(
            start=max(origin, before), stop=before + len(samples), rank=index.rank, world=index.world
        )
        group_of = index.population.group[samples.member]
        by_group = (own - before)[np.argsort(group_of[own - before], kind="stable")]
        groups, firsts, sizes = np.unique(group_of[by_group], return_index=True, return_counts=True)
        rank_of = np.zeros(len(samples), dtype=np.int64)
        rank_of[by_group] = np.arange(len(by_group)) - np.repeat(firsts, sizes)
        own_samples = dict(zip(groups.tolist(), np.split(by_group, firsts[1:]), strict=True)) if len(groups) else {}
        return EpochPlan(samples=samples, group_of=group_of, rank_of=rank_of, own_samples=own_samples)

    def _start_decoding(self, pending: PendingBatch) -> PendingBatch:
        """Allocate a batch and start to decode its frames."""
        index, count = self._index, len(pending.slots)
        keys = np.array([slot.samples.key[slot.sample] for slot in pending.slots])
        epochs = np.array([epoch for epoch, _ in pending.groups])
        identity = index.get_identities(np.array([slot.samples.member[slot.sample] for slot in pending.slots]))
        size = index.datasets[0].manifest.image_size
        for name, view in index.views.items():
            pending.batch[name] = Faces(
                images=self._buffers.take((count, view.count, *((size, size) if view.pixels else (0, 0)), 3)),
                identity=self._to_tensor(identity.copy()),
                augmentation=self._to_tensor(index.sample_augmentation(name, keys, epochs=epochs)),
                columns={column: self._allocate(column, count, view.count) for column in view.columns},
                is_aligned=view.is_aligned,
            )
        step = max(1, FRAMES_PER_TASK // sum(view.count for view in index.views.values()))
        for first in range(0, count, step):
            slots = pending.slots[first : first + step]
            pending.tasks.append(self._decode.submit(self._decoder.fill, pending.batch, slots))
        return pending

    def _allocate(self, column: str, count: int, frames: int) -> Tensor:
        dtype, shape = self._index.columns[column]
        return self._to_tensor(np.empty((count, frames, *shape), dtype=dtype))

    def _to_tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._index.pin else tensor

    def _finish_batch(self, pending: PendingBatch) -> Batch:
        """Wait for a batch, and release the row groups of which all samples are delivered."""
        for task in pending.tasks:
            task.result()
        for key, count in Counter(pending.groups).items():
            self._groups[key].remaining -= count
            if not self._groups[key].remaining:
                del self._groups[key]
        return pending.batch
