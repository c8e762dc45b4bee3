"""Hands batches to the training loop, prepared on its device: copied there and augmented."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from facscale.data.views import Batch


@dataclass(frozen=True)
class _PreparedBatch:
    batch: Batch
    event: torch.cuda.Event  # when the batch is ready


class BatchFeed:
    """An iterator over prepared batches, in the order of `batches`, with the same values on every device.

    On a GPU the next batch is copied and augmented on a stream of its own while the GPU computes the step before. What the
    host waits for in `prepare` then delays no step. On the CPU each batch is prepared when it is asked for.
    """

    def __init__(self, batches: Iterator[Batch], *, prepare: Callable[[Batch], Batch], device: torch.device) -> None:
        """`prepare` moves a batch to `device` and augments it there; it must not draw random numbers."""
        self._batches, self._prepare = batches, prepare
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: _PreparedBatch | None = None
        # Batches that the GPU may still copy from: their memory must not be used again before that.
        self._copied: deque[tuple[torch.cuda.Event, Batch]] = deque()
        self.wait_s = 0.0  # seconds that the host has waited for `batches`

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stream is None:
            return self._prepare(self._take())
        current = self._next or self._start(self._stream)
        try:
            self._next = self._start(self._stream)
        except StopIteration:
            self._next = None
        own = torch.cuda.current_stream(self._stream.device)
        own.wait_event(current.event)
        for faces in current.batch.values():
            for tensor in (faces.images, faces.identity, faces.augmentation, *faces.columns.values()):
                if tensor.is_cuda:
                    tensor.record_stream(own)  # its memory is used again only when this stream has done with it, too
        return current.batch

    def _take(self) -> Batch:
        asked = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self.wait_s += time.monotonic() - asked

    def _start(self, stream: torch.cuda.Stream) -> _PreparedBatch:
        """Start to prepare the next batch, behind what the GPU was given so far by this stream alone."""
        while self._copied and self._copied[0][0].query():
            self._copied.popleft()
        batch = self._take()
        with torch.cuda.stream(stream):
            prepared = self._prepare(batch)
            event = torch.cuda.Event()
            event.record(stream)
        self._copied.append((event, batch))
        return _PreparedBatch(prepared, event)
