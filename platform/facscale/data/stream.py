"""Batches of decoded faces, endlessly, from any place of the stream on.

Row groups are fetched ahead by a few threads, their JPEGs are decoded by others (libjpeg-turbo releases the GIL)
straight into the batch. Which samples there are is `source.py`'s, in which order `order.py`'s; everything random about
one comes from its own key, so its pixels are the same whoever reads it. A frame that does not decode is replaced by the
nearest good one of its run, a sample that is lost whole by another one a fixed distance on: both without regard to the
number of workers.
"""

from __future__ import annotations

from collections.abc import Generator

from facscale.data.cache import Cache
from facscale.data.loading import Loading
from facscale.data.rows import Reader, Skipped
from facscale.data.source import Source
from facscale.data.views import Batch

GIGABYTE = 1_000_000_000


class Stream(Source):
    """One source of samples that can be read."""

    @property
    def skipped(self) -> list[Skipped]:
        """Row groups and frames that could not be read so far."""
        return self.faults.skipped

    def batches(self, *, start: int = 0) -> Generator[Batch]:
        """Endless batches from the global cursor `start` (samples that all workers together have consumed) on.

        Images as decoded: uint8 [B / world, F, H, W, 3]. Closing the generator ends its threads. Raises DataError when
        more is unreadable than `max_bad` allows or the store stays away.
        """
        columns = tuple(self.columns)
        remote = any(not dataset.folder.local for dataset in self.datasets)
        limit = int(self.spec.cache_gb * GIGABYTE)
        cache = Cache(self.spec.cache, limit_bytes=limit) if remote else None
        reader = Reader(self.datasets, columns=columns, aus=self.aus, cache=cache)
        loading = Loading(self, reader=reader, fetchers=8 if remote else 2)
        try:
            yield from loading.run(start)
        finally:
            loading.close()
