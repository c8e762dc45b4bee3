"""Which errors end a training at once, and what they say."""

from __future__ import annotations

import pickle

import pytest
import torch
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError
from torch import nn

from facscale.data.errors import DataError, NoSpaceError, ReaderDiedError, StoreError
from facscale.spec import Job, SpecError
from facscale.train.errors import DivergedError, TrainError, explain, explain_errors, is_permanent
from facscale.train.ray.launch import unwrap_error

JOB = Job(method={"name": "clp"}, train={"batch_size": 64, "accumulate": 2}, cluster={"workers": 4})


def test_a_restart_helps_against_lost_hosts_and_silent_stores_alone():
    for error in (SpecError("s"), DataError("d"), NoSpaceError("n"), TrainError("t"), DivergedError("v")):
        assert is_permanent(error)
        assert is_permanent(pickle.loads(pickle.dumps(error)))  # as it comes from a worker
    for error in (
        StoreError("s"),
        ReaderDiedError("r"),
        RayActorError(),
        RuntimeError("NCCL timeout"),
        ConnectionError(),
    ):
        assert not is_permanent(error)


def explain_here(error):
    return explain(error, job=JOB, rank=3, world=4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), r"too small for 8 samples at a time"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), r"lower train\.batch_size \(64\)"),
        (MemoryError(), r"worker 3: this host's memory is too small.*\(MemoryError\)"),
        (OSError(28, "No space left on device"), r"a checkpoint does not fit in /.*free space"),
    ],
)
def test_what_comes_back_each_time_says_what_to_change(error, expected):
    with pytest.raises(TrainError, match=expected):
        raise explain_here(error)


def test_errors_of_this_version_of_torch_are_recognised():
    with pytest.raises(ValueError, match="more than 1 value") as batchnorm:
        nn.BatchNorm1d(3)(torch.ones(1, 3))
    assert "train.sync_batchnorm=true" in str(explain_here(batchnorm.value))
    with pytest.raises(RuntimeError) as memory:
        torch.empty(1 << 60)
    assert "this host's memory is too small" in str(explain_here(memory.value))


@pytest.mark.parametrize("error", [RuntimeError("Connection reset by peer"), ValueError("odd"), SpecError("known")])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as found, explain_errors(JOB, rank=0, world=1):
        raise error
    assert found.value is error


def test_of_a_failed_training_the_users_own_error_is_shown():
    error = unwrap_error(ControllerError(DivergedError("its loss is not finite")), name="clp-1")
    assert (type(error), str(error)) == (DivergedError, "clp-1: its loss is not finite")
    known = SpecError("a wrong key")
    assert unwrap_error(WorkerGroupError("", {1: RuntimeError("lost"), 2: known}), name="clp-1") is known
    other = unwrap_error(WorkerGroupError("", {1: RuntimeError("lost")}), name="clp-1")
    assert str(other) == "clp-1: training failed, also after restarts: lost"
