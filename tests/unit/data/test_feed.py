"""Batches for the training loop: prepared, in order, and ahead of a GPU."""

from __future__ import annotations

import itertools

import pytest
import torch

from facscale.data import augment
from facscale.data.augment import Augmenter
from facscale.data.feed import BatchFeed
from facscale.data.views import Batch, Faces
from facscale.spec import models


def make_batches(count):
    random = torch.Generator().manual_seed(0)
    spec = models.Augment()
    for number in range(count):
        unit = torch.rand(4, 2, 1, sum(augment.DRAWS), generator=random).numpy()
        yield Batch(
            face=Faces(
                images=torch.randint(0, 256, (4, 2, 32, 32, 3), dtype=torch.uint8, generator=random),
                identity=torch.full((4,), number),
                augmentation=torch.from_numpy(augment.to_params(spec, unit)),
                columns={"frame": torch.full((4, 2), number)},
            )
        )


def test_on_the_cpu_each_batch_is_prepared_when_it_is_asked_for():
    prepared = []

    def prepare(batch):
        prepared.append(int(batch.face.identity[0]))
        return batch

    feed = BatchFeed(make_batches(3), prepare=prepare, device=torch.device("cpu"))
    for number in range(3):
        assert int(next(feed).face.identity[0]) == number
        assert prepared == list(range(number + 1))
    with pytest.raises(StopIteration):
        next(feed)
    assert feed.wait_s > 0


def test_errors_of_the_stream_reach_the_loop():
    def fail():
        yield from make_batches(1)
        raise ZeroDivisionError("no disk")

    feed = BatchFeed(fail(), prepare=lambda batch: batch, device=torch.device("cpu"))
    next(feed)
    with pytest.raises(ZeroDivisionError, match="no disk"):
        next(feed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="preparing ahead needs a GPU")
def test_batches_that_are_prepared_ahead_are_the_same_batches():
    """The loop's stream is kept busy, so that a batch that it did not wait for would be read too early."""
    device, augmenter = torch.device("cuda"), Augmenter(size=16)
    plain = [augmenter(batch).face.images for batch in make_batches(20)]
    feed = BatchFeed(make_batches(20), prepare=lambda batch: augmenter(batch.to(device)), device=device)
    work = torch.rand(2000, 2000, device=device)
    sums = []
    for batch in feed:
        for _ in range(5):
            work = (work @ work).clamp(0, 1)
        sums.append(batch.face.images.clone())
        del batch
    assert len(sums) == 20
    for ours, expected in itertools.zip_longest(sums, plain):
        torch.testing.assert_close(ours.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="preparing ahead needs a GPU")
def test_the_next_batch_is_prepared_while_the_step_is_computed():
    """The step of the first batch takes a second; the second batch is ready before it ends."""
    device, augmenter = torch.device("cuda"), Augmenter(size=16)
    ready = []

    def prepare(batch):
        prepared = augmenter(batch.to(device))
        ready.append(torch.cuda.Event())
        ready[-1].record()
        return prepared

    feed = BatchFeed(make_batches(4), prepare=prepare, device=device)
    next(feed)  # constants are made, and the allocator has memory
    torch.cuda.synchronize(device)
    torch.cuda._sleep(2_000_000_000)
    step_end = torch.cuda.Event()
    step_end.record()
    next(feed)  # waits for nothing on the host
    ready[-1].synchronize()
    assert not step_end.query()
