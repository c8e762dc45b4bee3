"""How fast this machine reads a data set, and decodes it: each by itself."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from facscale.data.decoding import decode_into
from facscale.data.shards import Dataset

FETCHERS = 8  # as many as a stream has


def measure_read_rate(dataset: Dataset, *, seconds: float) -> float:
    """Bytes a second of row groups in random order, bypassing the cache. Raises DataError, CorruptError."""
    shards = dataset.manifest.shards
    groups = [(number, group) for number, shard in enumerate(shards) for group in range(len(shard.row_groups))]
    random.shuffle(groups)
    order = itertools.cycle(groups)

    def read_groups() -> int:
        wanted = list(itertools.islice(order, FETCHERS))
        return sum(len(data) for data in pool.map(lambda key: dataset.fetch(shard=key[0], row_group=key[1]), wanted))

    with ThreadPoolExecutor(FETCHERS) as pool:
        return measure_rate(read_groups, seconds=seconds)


def measure_decode_rate(dataset: Dataset, *, threads: int, seconds: float) -> float:
    """Frames a second of the first row group, again and again. Raises DataError, CorruptError."""
    table, size = dataset.read(shard=0, row_group=0, columns=["jpeg"]), dataset.manifest.image_size
    jpegs = [memoryview(data) for data in table["jpeg"].to_pylist()]

    def decode_all(_: int) -> int:
        into = np.empty((size, size, 3), np.uint8)
        for jpeg in jpegs:
            decode_into(jpeg, into)
        return len(jpegs)

    with ThreadPoolExecutor(threads) as pool:
        return measure_rate(lambda: sum(pool.map(decode_all, range(threads))), seconds=seconds)


def measure_rate(work: Callable[[], int], *, seconds: float) -> float:
    """Amount a second, where each call of `work` returns the amount that it did; for at least `seconds`."""
    began = time.monotonic()
    done = work()
    while time.monotonic() < began + seconds:
        done += work()
    return done / (time.monotonic() - began)
