"""Endless batches of decoded faces, from any position of the stream.

Row groups are fetched ahead by a few threads; other threads decode their JPEGs (libjpeg-turbo releases the GIL) straight
into the batch. `sample_index.py` determines the samples and `order.py` their order; everything random about a sample
comes from its own key, so its pixels do not depend on the worker that reads it. A frame that does not decode is replaced
by the nearest good one of its run, a sample without any good frame by another one a fixed distance away; both
independently of the number of workers.
"""

from __future__ import annotations

from collections.abc import Generator

from facscale.data.cache import Cache
from facscale.data.loader import BatchLoader
from facscale.data.rows import ReadFailure, RowGroupReader
from facscale.data.sample_index import SampleIndex
from facscale.data.views import Batch

GIGABYTE = 1_000_000_000


class Stream(SampleIndex):
    """A sample index whose samples can be read."""

    @property
    def skipped(self) -> list[ReadFailure]:
        """The row groups and frames that could not be read so far."""
        return self.failure_log.failures

    def batches(self, *, start: int = 0) -> Generator[Batch]:
        """Yield endless batches from the global cursor `start` (samples consumed by all workers together) on.

        Images are as decoded: uint8 [B / world, F, H, W, 3]. Closing the generator ends its threads. Raises DataError
        when more is unreadable than `max_bad` allows or the store stays unreachable.
        """
        columns = tuple(self.columns)
        is_remote = any(not dataset.folder.is_local for dataset in self.datasets)
        limit = int(self.spec.cache_gb * GIGABYTE)
        cache = Cache(self.spec.cache, limit_bytes=limit) if is_remote else None
        reader = RowGroupReader(self.datasets, columns=columns, aus=self.aus, cache=cache)
        loader = BatchLoader(self, reader=reader, fetchers=8 if is_remote else 2)
        try:
            yield from loader.run(start)
        finally:
            loader.close()
