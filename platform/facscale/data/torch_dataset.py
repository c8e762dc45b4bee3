"""A data set as torch's own `Dataset`, for training loops that are not facscale's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from facscale.data import pixels
from facscale.data.shards import Dataset

KEPT = 4  # row groups in memory, in each worker of a DataLoader


class FaceDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Frames in stored order: dictionaries of the image, uint8 [3, S, S] RGB, and of further columns.

    A row group (8 MB) is read at once and kept for its neighbours, so frames are read fastest in order or nearly so; a
    shuffled epoch over a large remote set is what `facscale.data.Stream` is for. Pickles for the workers of a DataLoader.
    """

    def __init__(self, url: str, *, columns: Sequence[str] = ("identity", "video", "frame")) -> None:
        """`columns`: delivered besides the image; "au" and "landmarks" become tensors. Raises DataError."""
        self.data = Dataset(url)
        self.columns = tuple(columns)
        groups = [
            (s, g, group.rows)
            for s, shard in enumerate(self.data.manifest.shards)
            for g, group in enumerate(shard.row_groups)
        ]
        self._places = [(shard, group) for shard, group, _ in groups]
        self._ends = np.cumsum([rows for *_, rows in groups])
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises IndexError; CorruptError for a damaged row group, ValueError for a frame that does not decode."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        index %= len(self)
        number = int(np.searchsorted(self._ends, index, side="right"))
        table = self._load(number)
        row = index - int(self._ends[number]) + table.num_rows
        image = torch.from_numpy(pixels.decode_jpeg(table["jpeg"][row].as_py())).permute(2, 0, 1)
        values = {name: table[name][row].as_py() for name in self.columns}
        return {"image": image} | {
            name: torch.tensor(value) if isinstance(value, list) else value for name, value in values.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": OrderedDict()}

    def _load(self, number: int) -> pa.Table:
        if number not in self._tables:
            shard, row_group = self._places[number]
            self._tables[number] = self.data.read(shard=shard, row_group=row_group, columns=["jpeg", *self.columns])
            while len(self._tables) > KEPT:
                self._tables.popitem(last=False)
        self._tables.move_to_end(number)
        return self._tables[number]
