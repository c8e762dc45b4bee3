"""Errors that end a training for good, and which errors those are: a restart costs minutes and mends none of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from facscale.data.errors import ReaderDiedError, StoreError
from facscale.errors import UserError
from facscale.files import is_disk_full
from facscale.spec import Job

# Words of torch's and DeepSpeed's messages, for errors that have no class of their own.
ACCELERATOR_MEMORY = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIP out of memory")
HOST_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
BATCHNORM = "Expected more than 1 value per channel when training"
LOSS_SCALE = "Current loss scale already at minimum"


class TrainError(UserError):
    """A training ended for good before its last step."""


class DivergedError(TrainError):
    """Losses, gradients or weights are not finite any more."""


def is_permanent(error: BaseException) -> bool:
    """Whether trying again cannot help: any error of the user's, but for a silent store and a reader that was killed."""
    return isinstance(error, UserError) and not isinstance(error, (StoreError, ReaderDiedError))


@contextmanager
def explain_errors(job: Job, *, rank: int, world: int) -> Iterator[None]:
    """Raise a TrainError, which says what to change, in place of errors of torch and DeepSpeed that come back each time."""
    try:
        yield
    except Exception as error:
        if explained := explain(error, job=job, rank=rank, world=world):
            raise explained from error
        raise


def explain(error: Exception, *, job: Job, rank: int, world: int) -> TrainError | None:
    """What to change, for an error of torch or DeepSpeed that comes back each time; None for any other."""
    train, text, advice = job.train, str(error), ""
    kind: type[TrainError] = TrainError
    samples = train.batch_size // (world * train.accumulate)
    if isinstance(error, UserError):
        return None
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in ACCELERATOR_MEMORY):
        advice = (
            f"the accelerator's memory is too small for {samples} samples at a time: lower train.batch_size "
            f"({train.batch_size}) or data.image_size ({job.data.image_size}), raise train.accumulate "
            f"({train.accumulate}) or cluster.workers, or set train.precision=bf16"
        )
    elif isinstance(error, MemoryError) or any(words in text for words in HOST_MEMORY):
        advice = (
            f"this host's memory is too small: lower train.batch_size ({train.batch_size}), data.prefetch "
            f"({job.data.prefetch}) or the number of workers on a host"
        )
    elif is_disk_full(error):
        advice = (
            f"a checkpoint does not fit in {tempfile.gettempdir()} or in cluster.storage ({job.cluster.storage}): free "
            "space there, then run the job again: it continues from its latest checkpoint"
        )
    elif BATCHNORM in text:
        advice = (
            f"BatchNorm needs more than one value for each channel, and a worker has {samples} "
            f"sample{'s' * (samples > 1)} at a time: raise train.batch_size ({train.batch_size}), lower train.accumulate "
            f"({train.accumulate}) or cluster.workers ({world}), or set train.sync_batchnorm=true"
        )
    elif LOSS_SCALE in text:
        kind, advice = (
            DivergedError,
            (
                "the training diverged: its gradients are not finite even at the smallest loss scale; lower "
                f"train.optimizer.lr ({train.optimizer.lr:g}), set train.clip, or train without deepspeed.fp16"
            ),
        )
    reason = (text.splitlines() or [type(error).__name__])[0][:200]
    return kind(f"worker {rank}: {advice} ({reason})") if advice else None
