"""From a row group to the frames of its samples."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from facscale.data.errors import CorruptError
from facscale.data.order import Epoch
from facscale.data.rows import Place, Reader, Rows
from facscale.data.source import Source

KEPT_FOR_REPAIRS = 4  # whole row groups


@dataclass(frozen=True)
class Picked:
    """Some samples of one row group and epoch."""

    place: Place
    rows: Rows
    indices: dict[str, list[list[int]]]  # view -> [samples][F] indices into `rows`
    columns: dict[str, dict[str, np.ndarray]]  # view -> column -> [samples, F, ...]


class Picker:
    """Loads row groups and chooses frames in them. Safe for use by several threads."""

    def __init__(self, source: Source, *, reader: Reader) -> None:
        self._source, self._reader = source, reader
        self._whole: OrderedDict[Place, Rows] = OrderedDict()
        self._lost: set[Place] = set()
        self._lock = threading.Lock()

    def pick(self, samples: Epoch, numbers: np.ndarray) -> Picked:
        """Fetch the row group of the samples `numbers` (all of one), keeping what they need. Raises CorruptError, DataError."""
        place = self._source.place(int(samples.member[numbers[0]]))
        rows = self._choose(samples, numbers)
        needed = np.unique(np.concatenate([chosen.ravel() for chosen in rows.values()]))
        try:
            loaded = self._reader.rows(place, needed=needed)
        except CorruptError as error:
            self._note_lost(place, error)
            raise
        return self._picked(place, loaded, rows)

    def pick_for_repair(self, samples: Epoch, number: int) -> Picked:
        """One sample, out of a whole row group. Raises as `pick` does."""
        place = self._source.place(int(samples.member[number]))
        return self._picked(place, self.whole(place), self._choose(samples, np.array([number])))

    def whole(self, place: Place) -> Rows:
        """All rows of a row group; the last few are kept. Raises as `pick` does."""
        with self._lock:
            if place in self._lost:
                raise CorruptError(f"{place} is known to be corrupt")
            if place not in self._whole:
                try:
                    self._whole[place] = self._reader.rows(place)
                except CorruptError as error:
                    self._note_lost(place, error)
                    raise
                if len(self._whole) > KEPT_FOR_REPAIRS:
                    self._whole.popitem(last=False)
            self._whole.move_to_end(place)
            return self._whole[place]

    def _note_lost(self, place: Place, error: CorruptError) -> None:
        self._lost.add(place)
        self._source.faults.add(self._source.datasets, place, row=None, why=str(error))

    def _picked(self, place: Place, loaded: Rows, rows: dict[str, np.ndarray]) -> Picked:
        indices = {name: loaded.indices(chosen) for name, chosen in rows.items()}
        columns = {
            name: {column: loaded.columns[column][indices[name]] for column in view.columns}
            for name, view in self._source.views.items()
        }
        lists = {name: found.tolist() for name, found in indices.items()}
        return Picked(place=place, rows=loaded, indices=lists, columns=columns)

    def _choose(self, samples: Epoch, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Rows [samples, F] of each view."""
        source = self._source
        members = samples.member[numbers]
        bits = np.random.Philox(key=0)
        random, state = np.random.Generator(bits), bits.state
        chosen: dict[str, list[np.ndarray]] = {name: [] for name in source.views}
        frames = source.population.frames[members].tolist()
        for start, length, key in zip(samples.start[numbers].tolist(), frames, samples.key[numbers], strict=True):
            state["state"]["key"][0] = key  # seven times cheaper than a new generator for each sample
            bits.state = state
            for name, view in source.views.items():
                chosen[name].append(view.choose(start, length, random))
        first = source.first_rows(members)[:, None]
        return {name: first + np.stack(rows) for name, rows in chosen.items()}
