"""Selects the frames of the samples in a row group."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from facscale.data.errors import CorruptError
from facscale.data.order import Epoch
from facscale.data.rows import RowGroupKey, RowGroupReader, Rows
from facscale.data.sample_index import SampleIndex

KEPT_FOR_REPAIRS = 4  # complete row groups


@dataclass(frozen=True)
class SelectedRows:
    """The frames of some samples of one row group and epoch."""

    key: RowGroupKey
    rows: Rows
    indices: dict[str, list[list[int]]]  # view -> [samples][F] indices into `rows`
    columns: dict[str, dict[str, np.ndarray]]  # view -> column -> [samples, F, ...]


class FrameSelector:
    """Loads row groups and selects the frames of samples in them. Safe for use by several threads."""

    def __init__(self, index: SampleIndex, *, reader: RowGroupReader) -> None:
        self._index, self._reader = index, reader
        self._row_groups: OrderedDict[RowGroupKey, Rows] = OrderedDict()
        self._corrupt: set[RowGroupKey] = set()
        self._lock = threading.Lock()

    def select(self, samples: Epoch, numbers: np.ndarray, *, is_kept: bool = True) -> SelectedRows:
        """Fetch the row group that the samples `numbers` share and keep the rows they need. Raises CorruptError, DataError.

        `is_kept`: store it in the cache, if it fits.
        """
        key = self._index.get_row_group(int(samples.member[numbers[0]]))
        rows = self._choose_rows(samples, numbers)
        needed = np.unique(np.concatenate([view_rows.ravel() for view_rows in rows.values()]))
        try:
            loaded = self._reader.read(key, needed=needed, is_kept=is_kept)
        except CorruptError as error:
            self._report_corrupt(key, error)
            raise
        return self._gather(key, loaded, rows)

    def select_single(self, samples: Epoch, number: int) -> SelectedRows:
        """Select one sample out of a complete row group, for repairs. Raises as `select` does."""
        key = self._index.get_row_group(int(samples.member[number]))
        return self._gather(key, self.load_row_group(key), self._choose_rows(samples, np.array([number])))

    def load_row_group(self, key: RowGroupKey) -> Rows:
        """Load all rows of a row group; the last KEPT_FOR_REPAIRS stay in memory. Raises as `select` does."""
        with self._lock:
            if key in self._corrupt:
                raise CorruptError(f"{key} could not be read before")
            if key not in self._row_groups:
                try:
                    self._row_groups[key] = self._reader.read(key, is_kept=False)
                except CorruptError as error:
                    self._report_corrupt(key, error)
                    raise
                if len(self._row_groups) > KEPT_FOR_REPAIRS:
                    self._row_groups.popitem(last=False)
            self._row_groups.move_to_end(key)
            return self._row_groups[key]

    def _report_corrupt(self, key: RowGroupKey, error: CorruptError) -> None:
        self._corrupt.add(key)
        self._index.failure_log.add(self._index.datasets, key, row=None, reason=str(error))

    def _gather(self, key: RowGroupKey, loaded: Rows, rows: dict[str, np.ndarray]) -> SelectedRows:
        indices = {name: loaded.locate(view_rows) for name, view_rows in rows.items()}
        columns = {
            name: {column: loaded.columns[column][indices[name]] for column in view.columns}
            for name, view in self._index.views.items()
        }
        lists = {name: view_indices.tolist() for name, view_indices in indices.items()}
        return SelectedRows(key=key, rows=loaded, indices=lists, columns=columns)

    def _choose_rows(self, samples: Epoch, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return the row numbers [samples, F] of each view."""
        index = self._index
        members = samples.member[numbers]
        bits = np.random.Philox(key=0)
        random, state = np.random.Generator(bits), bits.state
        chosen: dict[str, list[np.ndarray]] = {name: [] for name in index.views}
        frames = index.population.frames[members].tolist()
        for start, length, key in zip(samples.start[numbers].tolist(), frames, samples.key[numbers], strict=True):
            state["state"]["key"][0] = key  # seven times cheaper than a new generator for each sample
            bits.state = state
            for name, view in index.views.items():
                chosen[name].append(view.choose(start, length, random))
        first = index.get_first_rows(members)[:, None]
        return {name: first + np.stack(rows) for name, rows in chosen.items()}
