"""The moving parts of a stream: threads that fetch row groups and decode frames, and the batches under way."""

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
from facscale.data.filling import Filler, Slot
from facscale.data.picking import Picked, Picker
from facscale.data.rows import Reader
from facscale.data.source import Source
from facscale.data.views import Batch, Faces

FRAMES_A_TASK = 16  # decoded by one task: enough to forget the cost of handing it over


@dataclass
class Group:
    """A row group on its way."""

    picked: Future[Picked]
    left: int  # samples not yet delivered


@dataclass(frozen=True)
class Course:
    """An epoch, from this worker's first sample on."""

    samples: order.Epoch
    group_of: np.ndarray  # [N] row group of each sample
    rank_of: np.ndarray  # [N] the how-many-th of this worker's samples in its row group
    mine: dict[int, np.ndarray]  # row group -> this worker's samples in it


@dataclass
class Pack:
    """A batch under way."""

    slots: list[Slot] = field(default_factory=list)
    groups: list[tuple[int, int]] = field(default_factory=list)  # (epoch, row group) of each slot
    batch: Batch = field(default_factory=Batch)
    tasks: list[Future[None]] = field(default_factory=list)


class Buffers:
    """Image buffers that are used again once the consumer has dropped the tensor: fresh pages cost as much as decoding."""

    def __init__(self, *, pin: bool) -> None:
        self._pin = pin
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised uint8 tensor."""
        if self._pin:  # torch keeps its own pool of pinned memory, which also waits for copies under way
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        free = self._free.setdefault(shape, [])
        base = free.pop() if free else np.empty(shape, dtype=np.uint8)
        lent = base[:]  # lives exactly as long as the tensor's storage
        weakref.finalize(lent, free.append, base).atexit = False
        return torch.from_numpy(lent)


class Loading:
    """One pass over a stream from some place on."""

    def __init__(self, source: Source, *, reader: Reader, fetchers: int) -> None:
        self._source, self._reader = source, reader
        self._picker = Picker(source, reader=reader)
        self._filler = Filler(source, picker=self._picker)
        self._fetch = ThreadPoolExecutor(fetchers, thread_name_prefix="facscale-fetch")
        self._decode = ThreadPoolExecutor(source.spec.threads, thread_name_prefix="facscale-decode")
        self._buffers = Buffers(pin=source.pin)
        self._courses: dict[int, Future[Course]] = {}
        self._groups: dict[tuple[int, int], Group] = {}

    def run(self, start: int) -> Iterator[Batch]:
        """Batches from the global position `start` on."""
        prefetch = self._source.spec.prefetch
        fetching: deque[Pack] = deque()
        decoding: deque[Pack] = deque()
        for first in itertools.count(start, self._source.batch_size):
            fetching.append(self._plan(first, origin=start))
            if len(fetching) > prefetch:
                decoding.append(self._begin(fetching.popleft()))
            if len(decoding) > prefetch:
                yield self._finish(decoding.popleft())

    def close(self) -> None:
        """End all threads; those that wait for a store give up."""
        self._reader.stop.set()
        for pool in (self._decode, self._fetch):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._decode, self._fetch):
            pool.shutdown(wait=True)

    def _plan(self, first: int, *, origin: int) -> Pack:
        """Say which samples make the batch at `first`, and have their row groups fetched."""
        source, pack = self._source, Pack()
        positions = order.of_worker(start=first, stop=first + source.batch_size, rank=source.rank, world=source.world)
        for epoch, sample in zip(
            *(part.tolist() for part in np.divmod(positions, source.samples_per_epoch)), strict=True
        ):
            course = self._course(epoch, origin=origin)
            key = (epoch, int(course.group_of[sample]))
            if key not in self._groups:
                mine = course.mine[key[1]]
                self._groups[key] = Group(self._fetch.submit(self._picker.pick, course.samples, mine), left=len(mine))
            slot = Slot(len(pack.slots), course.samples, sample, self._groups[key].picked, int(course.rank_of[sample]))
            pack.slots.append(slot)
            pack.groups.append(key)
        return pack

    def _course(self, epoch: int, *, origin: int) -> Course:
        if epoch + 1 not in self._courses:  # the next one is ready when it is needed
            self._courses = {number: course for number, course in self._courses.items() if number >= epoch}
            for number in (epoch, epoch + 1):
                if number not in self._courses:
                    self._courses[number] = self._fetch.submit(self._arrange, number, origin)
        return self._courses[epoch].result()

    def _arrange(self, epoch: int, origin: int) -> Course:
        source = self._source
        samples = source.epoch(epoch)
        before = epoch * len(samples)
        mine = order.of_worker(
            start=max(origin, before), stop=before + len(samples), rank=source.rank, world=source.world
        )
        group_of = source.population.group[samples.member]
        by_group = (mine - before)[np.argsort(group_of[mine - before], kind="stable")]
        groups, firsts, sizes = np.unique(group_of[by_group], return_index=True, return_counts=True)
        rank_of = np.zeros(len(samples), dtype=np.int64)
        rank_of[by_group] = np.arange(len(by_group)) - np.repeat(firsts, sizes)
        members = dict(zip(groups.tolist(), np.split(by_group, firsts[1:]), strict=True)) if len(groups) else {}
        return Course(samples=samples, group_of=group_of, rank_of=rank_of, mine=members)

    def _begin(self, pack: Pack) -> Pack:
        """Make room for a batch and have its frames decoded."""
        source, count = self._source, len(pack.slots)
        keys = np.array([slot.samples.key[slot.sample] for slot in pack.slots])
        identity = source.identities(np.array([slot.samples.member[slot.sample] for slot in pack.slots]))
        size = source.datasets[0].manifest.image_size
        for name, view in source.views.items():
            pack.batch[name] = Faces(
                images=self._buffers.take((count, view.count, *((size, size) if view.pixels else (0, 0)), 3)),
                identity=self._tensor(identity.copy()),
                augmentation=self._tensor(source.parameters(name, keys)),
                columns={column: self._empty(column, count, view.count) for column in view.columns},
            )
        step = max(1, FRAMES_A_TASK // sum(view.count for view in source.views.values()))
        for first in range(0, count, step):
            pack.tasks.append(self._decode.submit(self._filler.fill, pack.batch, pack.slots[first : first + step]))
        return pack

    def _empty(self, column: str, count: int, frames: int) -> Tensor:
        dtype, shape = self._source.columns[column]
        return self._tensor(np.empty((count, frames, *shape), dtype=dtype))

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._source.pin else tensor

    def _finish(self, pack: Pack) -> Batch:
        """Wait for a batch, and let go of the row groups that are used up."""
        for task in pack.tasks:
            task.result()
        for key, count in Counter(pack.groups).items():
            self._groups[key].left -= count
            if not self._groups[key].left:
                del self._groups[key]
        return pack.batch
