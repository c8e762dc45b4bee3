"""How fast this machine reads a data set, and decodes it: each by itself."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from facscale.data.filling import decode
from facscale.data.rows import Rows
from facscale.data.shards import Dataset

FETCHERS = 8  # as many as a stream has


def read_rate(dataset: Dataset, *, seconds: float) -> float:
    """Bytes a second of row groups in random order, cache aside. Raises DataError, CorruptError."""
    groups = [
        (number, group)
        for number, shard in enumerate(dataset.manifest.shards)
        for group in range(len(shard.row_groups))
    ]
    random.shuffle(groups)
    order = itertools.cycle(groups)

    def some() -> int:
        wanted = list(itertools.islice(order, FETCHERS))
        return sum(len(data) for data in pool.map(lambda at: dataset.fetch(shard=at[0], row_group=at[1]), wanted))

    with ThreadPoolExecutor(FETCHERS) as pool:
        return rate(some, seconds=seconds)


def decode_rate(dataset: Dataset, *, threads: int, seconds: float) -> float:
    """Frames a second of the first row group, again and again. Raises DataError, CorruptError."""
    table = dataset.read(shard=0, row_group=0, columns=["jpeg"])
    rows, size = Rows(table, columns={}, kept=None), dataset.manifest.image_size

    def all_of_them(_: int) -> int:
        into = np.empty((size, size, 3), np.uint8)
        for index in range(len(table)):
            decode(rows.jpeg(index), into)
        return len(table)

    with ThreadPoolExecutor(threads) as pool:
        return rate(lambda: sum(pool.map(all_of_them, range(threads))), seconds=seconds)


def rate(some: Callable[[], int], *, seconds: float) -> float:
    """What `some` has done, each time it is called, per second of at least `seconds`."""
    began = time.monotonic()
    done = some()
    while time.monotonic() < began + seconds:
        done += some()
    return done / (time.monotonic() - began)
