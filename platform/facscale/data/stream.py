"""Endless batches of decoded faces, from any position of the stream.

The frames that are needed of a row group are fetched ahead by a few threads; other threads decode their JPEGs (libjpeg-turbo releases the GIL) straight
into the batch. `sample_index.py` determines the samples and `order.py` their order; everything random about a sample
comes from its own key, so its pixels do not depend on the worker that reads it. A frame that does not decode is replaced
by the nearest good one of its run, a sample without any good frame by another one a fixed distance away; both
independently of the number of workers.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

from facscale.data.batch_memory import BufferPool, Buffers
from facscale.data.cache import Cache
from facscale.data.group_bytes import Traffic
from facscale.data.loader import BatchLoader
from facscale.data.reader_process import ReaderProcess
from facscale.data.rows import ReadFailure, RowGroupReader
from facscale.data.sample_index import SampleIndex
from facscale.data.views import Batch

GIGABYTE = 1_000_000_000
FETCHERS, REMOTE_FETCHERS = 2, 32  # row groups that are read at a time
REQUESTS = 64  # ranges that are requested at a time, of a remote store


class Stream(SampleIndex):
    """A sample index whose samples can be read."""

    @property
    def skipped(self) -> list[ReadFailure]:
        """The row groups and frames that could not be read so far."""
        return self.failure_log.failures

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the arguments, and what could not be read so far."""
        options = ("spec", "batch_size", "seed", "rank", "world", "subjects", "pin", "is_short")
        make = partial(Stream, **{name: getattr(self, name) for name in options})
        return make, (self.datasets, self.views), {"failure_log": self.failure_log}

    def batches(self, *, start: int = 0) -> Generator[Batch]:
        """Yield endless batches from the global cursor `start` (samples consumed by all workers together) on.

        Images are as decoded: uint8 [B / world, F, H, W, 3]. Closing the generator ends its threads, or its process. Raises
        DataError when more is unreadable than `max_bad` allows or the store stays unreachable, ReaderDiedError when the
        process of `data.reader=process` is killed.
        """
        if self.is_short or self.spec.reader == "threads":
            yield from self.read_batches(start=start, buffers=BufferPool(pin=self.pin))
            return
        reader = ReaderProcess(self, start=start)
        try:
            yield from reader.run()
        finally:
            reader.close()

    def read_batches(self, *, start: int, buffers: Buffers) -> Generator[Batch]:
        """Yield batches as `batches`, read by threads of this process into memory from `buffers`."""
        is_remote = any(not dataset.folder.is_local for dataset in self.datasets)
        pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="facscale-request")
        reader = RowGroupReader(
            self.datasets,
            columns=tuple(self.columns),
            aus=self.aus,
            cache=self._open_cache() if is_remote else None,
            pool=pool,
            traffic=self.traffic,
        )
        fetchers = REMOTE_FETCHERS if is_remote else FETCHERS
        loader = BatchLoader(self, reader=reader, fetchers=fetchers, buffers=buffers)
        try:
            yield from loader.run(start)
        finally:
            loader.close()
            pool.shutdown(wait=True, cancel_futures=True)

    @cached_property
    def traffic(self) -> Traffic:
        """What all passes over this stream have read."""
        return Traffic()

    def _open_cache(self) -> Cache:
        """Open the node's cache; what the data sets have remains in it."""
        shards = (shard for dataset in self.datasets for shard in dataset.manifest.shards)
        checksums = {group.checksum for shard in shards for group in shard.row_groups}
        return Cache(self.spec.cache, limit_bytes=int(self.spec.cache_gb * GIGABYTE), protected=checksums)
