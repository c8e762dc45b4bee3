"""Decodes frames into a batch, and finds others for those that cannot be decoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import simplejpeg

from facscale.data.errors import CorruptError, DataError
from facscale.data.order import Epoch
from facscale.data.picking import Picked, Picker
from facscale.data.source import Source
from facscale.data.views import Batch

NEAR_TRIES = 8  # substitutes looked for in the lost sample's own canonical stream


@dataclass(frozen=True)
class Slot:
    """One place of a batch, and the sample that belongs there."""

    number: int  # place in the batch
    samples: Epoch
    sample: int  # number in the epoch
    picked: Future[Picked]
    rank: int  # number in `picked`


class LostError(Exception):
    """No frame of a sample's run can be read."""


class Filler:
    """Writes samples into a batch's tensors. Safe for use by several threads, each with its own slots."""

    def __init__(self, source: Source, *, picker: Picker) -> None:
        self._source, self._picker = source, picker

    def fill(self, batch: Batch, slots: list[Slot]) -> None:
        """Decode all frames of the given slots. Raises DataError when too much is unreadable, or the store is away."""
        images = {name: faces.images.numpy() for name, faces in batch.items()}
        for slot in slots:
            try:
                self._fill_one(batch, images, slot, picked=slot.picked.result(), rank=slot.rank, sample=slot.sample)
            except (CorruptError, LostError):
                self._substitute(batch, images, slot)

    def _fill_one(
        self, batch: Batch, images: dict[str, np.ndarray], slot: Slot, *, picked: Picked, rank: int, sample: int
    ) -> None:
        at = slot.number
        for name, faces in batch.items():
            for column, values in picked.columns[name].items():
                faces.columns[column].numpy()[at] = values[rank]
            if not self._source.views[name].pixels:
                continue
            for frame, index in enumerate(picked.indices[name][rank]):
                why = decode(picked.rows.jpeg(index), images[name][at, frame])
                if why:
                    member = int(slot.samples.member[sample])
                    self._mend(
                        batch, name, images[name], (at, frame), picked=picked, index=index, member=member, why=why
                    )

    def _mend(
        self,
        batch: Batch,
        name: str,
        images: np.ndarray,
        place: tuple[int, int],
        *,
        picked: Picked,
        index: int,
        member: int,
        why: str,
    ) -> None:
        """Put the nearest later good frame of the run in a bad one's place, or else the nearest earlier."""
        row = picked.rows.number(index)
        first = int(self._source.first_rows(np.array([member]))[0])
        last = first + int(self._source.population.frames[member]) - 1
        self._source.faults.add(self._source.datasets, picked.place, row=row, why=why)
        whole = self._picker.whole(picked.place)
        for other in itertools.chain(range(row + 1, last + 1), range(row - 1, first - 1, -1)):
            if problem := decode(whole.jpeg(other), images[place]):
                self._source.faults.add(self._source.datasets, picked.place, row=other, why=problem)
                continue
            for column, values in batch[name].columns.items():
                values.numpy()[place] = whole.columns[column][other]
            return
        raise LostError

    def _substitute(self, batch: Batch, images: dict[str, np.ndarray], slot: Slot) -> None:
        """Put another sample of the epoch in a lost one's place; which one does not depend on the workers."""
        for sample in self._others(slot.sample, len(slot.samples)):
            try:
                picked = self._picker.pick_for_repair(slot.samples, sample)
                self._fill_one(batch, images, slot, picked=picked, rank=0, sample=sample)
            except (CorruptError, LostError):
                continue
            person = self._source.identities(slot.samples.member[[sample]])[0]
            for faces in batch.values():
                faces.identity[slot.number] = int(person)
            return
        raise DataError(f"{', '.join(dataset.url for dataset in self._source.datasets)}: not one sample can be read")

    def _others(self, sample: int, count: int) -> Iterator[int]:
        streams = self._source.spec.canonical_streams
        near = (streams * step for step in range(1, NEAR_TRIES + 1))
        for step in itertools.chain(near, range(1, count)):
            yield (sample + step) % count


def decode(jpeg: memoryview, into: np.ndarray) -> str:
    """Decode an RGB image [H, W, 3] into its place; "" if it worked, else what is wrong with it."""
    try:
        image = simplejpeg.decode_jpeg(jpeg, buffer=into)
    except ValueError as error:
        return f"not decodable: {error}"
    return "" if image.shape == into.shape else f"{image.shape[1]} x {image.shape[0]} pixels, not {into.shape[1]}"
