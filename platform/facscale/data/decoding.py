"""Decodes frames into a batch, and substitutes other frames or samples for those that cannot be decoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import simplejpeg

from facscale.data.errors import CorruptError, DataError
from facscale.data.order import Epoch, EpochOrder
from facscale.data.sample_index import SampleIndex
from facscale.data.selection import FrameSelector, SelectedRows
from facscale.data.views import Batch

NEAR_TRIES = 8  # substitutes that are tried in the lost sample's own canonical stream


@dataclass(frozen=True)
class BatchSlot:
    """A position in a batch, and the sample that belongs there."""

    position: int  # in the batch
    samples: Epoch  # those that are shuffled together
    sample: int  # number in `samples`
    epoch: EpochOrder
    place: int  # of the sample in its epoch
    selected: Future[SelectedRows]
    rank: int  # number in `selected`


class UnreadableSampleError(Exception):
    """No frame of a sample's run can be read."""


class BatchDecoder:
    """Decodes samples into a batch's tensors. Safe for use by several threads, each with its own slots."""

    def __init__(self, index: SampleIndex, *, selector: FrameSelector) -> None:
        self._index, self._selector = index, selector

    def fill(self, batch: Batch, slots: list[BatchSlot]) -> None:
        """Decode all frames of the given slots. Raises DataError when too much is unreadable or the store is down."""
        images = {name: faces.images.numpy() for name, faces in batch.items()}
        for slot in slots:
            try:
                member = int(slot.samples.member[slot.sample])
                self._fill_slot(batch, images, slot, selected=slot.selected.result(), rank=slot.rank, member=member)
            except (CorruptError, UnreadableSampleError):
                self._substitute(batch, images, slot)

    def _fill_slot(
        self,
        batch: Batch,
        images: dict[str, np.ndarray],
        slot: BatchSlot,
        *,
        selected: SelectedRows,
        rank: int,
        member: int,
    ) -> None:
        position = slot.position
        for name, faces in batch.items():
            for column, values in selected.columns[name].items():
                faces.columns[column].numpy()[position] = values[rank]
            if not self._index.views[name].pixels:
                continue
            for frame, index in enumerate(selected.indices[name][rank]):
                failure = decode_into(selected.rows.get_jpeg(index), images[name][position, frame])
                if failure:
                    row = selected.rows.row_number(index)
                    self._index.failure_log.add(self._index.datasets, selected.key, row=row, reason=failure)
                    self._replace_frame(batch, images, selected, name, (position, frame), row=row, member=member)

    def _replace_frame(
        self,
        batch: Batch,
        images: dict[str, np.ndarray],
        selected: SelectedRows,
        name: str,
        place: tuple[int, int],
        *,
        row: int,
        member: int,
    ) -> None:
        """Put the nearest later good frame of the run in the place of bad row `row`, or else the nearest earlier one."""
        first = int(self._index.get_first_rows(np.array([member]))[0])
        last = first + int(self._index.population.frames[member]) - 1
        rows = self._selector.load_row_group(selected.key)
        for candidate in itertools.chain(range(row + 1, last + 1), range(row - 1, first - 1, -1)):
            if failure := decode_into(rows.get_jpeg(candidate), images[name][place]):
                self._index.failure_log.add(self._index.datasets, selected.key, row=candidate, reason=failure)
                continue
            for column, values in batch[name].columns.items():
                values.numpy()[place] = rows.columns[column][candidate]
            return
        raise UnreadableSampleError

    def _substitute(self, batch: Batch, images: dict[str, np.ndarray], slot: BatchSlot) -> None:
        """Put another sample of the epoch in a lost one's place; the choice does not depend on the workers."""
        for place in self._list_substitutes(slot.place, len(slot.epoch)):
            samples = slot.epoch.take(np.array([place]))
            try:
                selected = self._selector.select_single(samples, 0)
                self._fill_slot(batch, images, slot, selected=selected, rank=0, member=int(samples.member[0]))
            except (CorruptError, UnreadableSampleError):
                continue
            identity = self._index.get_identities(samples.member)[0]
            for faces in batch.values():
                faces.identity[slot.position] = int(identity)
            return
        raise DataError(f"{', '.join(dataset.url for dataset in self._index.datasets)}: not one sample can be read")

    def _list_substitutes(self, place: int, count: int) -> Iterator[int]:
        """Yield places in the epoch: first those of the same canonical stream, then all."""
        streams = self._index.spec.canonical_streams
        near = (streams * step for step in range(1, NEAR_TRIES + 1))
        for step in itertools.chain(near, range(1, count)):
            yield (place + step) % count


def decode_into(jpeg: memoryview, out: np.ndarray) -> str:
    """Decode a JPEG into `out`, an RGB image [H, W, 3]; return "" on success, else the reason of the failure."""
    if not len(jpeg):
        return "not decodable: its bytes are damaged or missing"
    try:
        image = simplejpeg.decode_jpeg(jpeg, buffer=out)
    except ValueError as error:
        return f"not decodable: {error}"
    return "" if image.shape == out.shape else f"{image.shape[1]} x {image.shape[0]} pixels, not {out.shape[1]}"
