"""Profiling inside the workers: a training for some time, and then each of its parts by itself."""

from __future__ import annotations

import itertools
import math
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import TrainingFailedError

from facscale.data.storage import open_fsspec
from facscale.data.stream import Stream
from facscale.data.views import Batch
from facscale.profile.rates import measure_decode_rate, measure_read_rate
from facscale.profile.usage import Usage, get_memory_size
from facscale.train import checkpoint
from facscale.train.errors import explain_errors
from facscale.train.loop import take_steps
from facscale.train.metrics import measure_cost
from facscale.train.ray.event_queue import RayEventQueue
from facscale.train.ray.launch import dispatch_events, make_ray_trainer, unwrap_error
from facscale.train.setup import build_state, merge_streams, open_streams
from facscale.train.state import TrainState
from facscale.train.task import TrainingTask
from facscale.train.trainer import Receiver, storage_url

WARM_STEPS = 3  # the first steps compile, fill queues and caches
WARM_SHARE = 0.1  # and at least that share of the seconds
BLOCK_S = 5.0  # after so long, workers agree anew on a number of steps
EXCHANGES = 5
UNBOUNDED_EPOCHS = 1e6


@dataclass(frozen=True)
class PartStarted:
    """The workers begin to measure another part."""

    part: str  # "training", or "each part by itself"


@dataclass(frozen=True)
class WorkerProfile:
    """What one worker measured; rates are its own, of samples unless said otherwise."""

    rank: int
    world: int
    device: str  # its name; "" for the CPU
    step_s: float  # of real training
    data_wait: float  # share of that time in which it had no data: 0 to 1
    cores: float  # that it kept busy meanwhile
    gpu: float | None  # share of that time in which its GPU was busy, if known
    model_step_s: float  # the same batch again and again
    exchange_s: float  # of all gradients, once
    stream_rate: float  # reading and decoding, without training
    read_bytes: float  # a second, from the store
    decode_frames: float  # a second, of all its threads; 0 where no pixels are read
    bytes_per_sample: float
    memory: int  # largest, bytes
    memory_size: int  # of the GPU, or of the node
    checkpoint_s: float  # in which nothing is trained
    checkpoint_bytes: int


def profile_training(task: TrainingTask, *, seconds: float, receive: Receiver) -> None:
    """Train for some seconds and measure each part, on the task's workers; `receive` gets the events. Nothing is kept.

    Raises as `RayTrainer.fit` does, at the first failure.
    """
    name = f"rehearsal-{uuid.uuid4().hex[:12]}"
    cluster = task.job.cluster.model_copy(update={"max_failures": 0})
    bounded = replace(task, job=task.job.model_copy(update={"cluster": cluster}))
    try:
        with dispatch_events(bounded, receive) as watched:
            settings = {"task": watched, "seconds": seconds}
            try:
                make_ray_trainer(watched, settings, name=name, loop=profile_on_worker).fit()
            except TrainingFailedError as error:
                raise unwrap_error(error, name=name) from None
    finally:
        store, folder = open_fsspec(f"{storage_url(task.job)}/{name}")
        if store.exists(folder):
            store.rm(folder, recursive=True)


def profile_on_worker(settings: Mapping[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`. The profile goes to the task's events; nothing else remains.

    Raises TrainError for what no restart can mend, such as too little memory.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    with explain_errors(settings["task"].job, rank=rank, world=world):
        measure_worker(settings["task"], seconds=settings["seconds"], rank=rank, world=world)


def measure_worker(task: TrainingTask, *, seconds: float, rank: int, world: int) -> None:
    """Measure all that a profile holds of this worker, and emit it."""
    device = ray.train.torch.get_device()
    streams = open_streams(task, rank=rank, world=world, pin=device.type == "cuda")
    state = build_state(make_unbounded(task), streams, rank=rank, world=world, device=device)
    batches = merge_streams(streams, 0)
    if rank == 0:
        task.emit(PartStarted("training"))
    with Usage(device) as usage:
        training = measure_pace(state, batches, world=world, seconds=seconds, on_begin=usage.begin)
    batch = next(batches)
    batches.close()
    part_s = max(1.0, seconds / 12)
    if rank == 0:
        task.emit(PartStarted("each part by itself"))
    model = measure_pace(state, itertools.repeat(batch), world=world, seconds=part_s)
    profile = WorkerProfile(
        rank=rank,
        world=world,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        step_s=training.step_s,
        data_wait=training.data_wait,
        cores=usage.cores,
        gpu=usage.gpu,
        model_step_s=model.step_s,
        exchange_s=measure_exchange(state, world=world),
        **measure_data(state, streams, seconds=part_s),
        memory=int(measure_cost(state)["peak_memory_gb"] * 2**30),
        memory_size=get_memory_size(device),
        **measure_checkpoint(state),
    )
    assert isinstance(task.events, RayEventQueue)
    task.events.put_and_wait(profile)  # the worker ends right after it


def make_unbounded(task: TrainingTask) -> TrainingTask:
    """The same task with endless epochs: also a job of a few steps is measured for a minute."""
    train = task.job.train.model_copy(update={"epochs": UNBOUNDED_EPOCHS})
    return replace(task, job=task.job.model_copy(update={"train": train}))


@dataclass(frozen=True)
class Pace:
    """The speed of some steps."""

    step_s: float
    data_wait: float  # share of the time


def measure_pace(
    state: TrainState,
    batches: Iterator[Batch],
    *,
    world: int,
    seconds: float,
    on_begin: Callable[[], None] = lambda: None,
) -> Pace:
    """Train for about `seconds` after a warm-up; all workers take equally many steps. `on_begin` is called in between."""
    steps = take_steps(state, batches)

    def time_steps(count: int) -> float:
        return time_call(lambda: deque(itertools.islice(steps, count), maxlen=0), state.device)

    time_steps(WARM_STEPS)
    step_s = time_steps(1)
    warm_steps = math.ceil(broadcast(max(1, WARM_SHARE * seconds / step_s), state, world=world))
    step_s = time_steps(warm_steps) / warm_steps
    on_begin()
    waited_before, passed, done = state.data_wait_s, 0.0, 0
    while passed < seconds:
        wanted = math.ceil(broadcast(max(1, min(BLOCK_S, seconds - passed) / step_s), state, world=world))
        passed = broadcast(passed + time_steps(wanted), state, world=world)
        done += wanted
        step_s = passed / done
    return Pace(passed / done, (state.data_wait_s - waited_before) / passed)


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of `call`, until the accelerator has finished what it started."""
    began = time.monotonic()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began


def broadcast(value: float, state: TrainState, *, world: int) -> float:
    """Rank 0's value, on all workers."""
    if world == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=state.device)
    torch.distributed.broadcast(tensor, 0)
    return float(tensor.item())


def measure_exchange(state: TrainState, *, world: int) -> float:
    """Seconds in which all workers add up as many numbers as there are gradients, and do nothing else."""
    if world == 1:
        return 0.0
    count = sum(parameter.numel() for engine in state.engines for parameter in engine.parameters.values())
    gradients = torch.zeros(count, device=state.device)
    times = [time_call(lambda: torch.distributed.all_reduce(gradients), state.device) for _ in range(1 + EXCHANGES)]
    return sum(times[1:]) / EXCHANGES


def measure_data(state: TrainState, streams: Mapping[str, Stream], *, seconds: float) -> dict[str, Any]:
    """Reading and decoding together, and each by itself, of the stream that sets the epoch."""
    first = next(iter(streams.values()))
    dataset, has_pixels = first.datasets[0], any(view.pixels for view in first.views.values())
    share = first.batch_size / first.world
    batches = merge_streams(dict(streams), 0)
    for _ in range(first.spec.prefetch + 1):
        next(batches)
    began, done = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        next(batches)
        done += 1
    stream_rate = done * share / (time.monotonic() - began)
    batches.close()
    threads = state.job.data.threads
    return {
        "stream_rate": stream_rate,
        "read_bytes": measure_read_rate(dataset, seconds=seconds),
        "decode_frames": measure_decode_rate(dataset, threads=threads, seconds=seconds) if has_pixels else 0.0,
        "bytes_per_sample": sum(
            stream.compute_bytes_per_epoch() / stream.samples_per_epoch for stream in streams.values()
        ),
    }


def measure_checkpoint(state: TrainState) -> dict[str, Any]:
    """What a checkpoint costs: seconds without training, and bytes. It is not kept."""
    began = time.monotonic()
    written = checkpoint.write(state)
    seconds = time.monotonic() - began
    if written is None:
        return {"checkpoint_s": seconds, "checkpoint_bytes": 0}
    size = sum(path.stat().st_size for path in written.rglob("*"))
    shutil.rmtree(written)
    return {"checkpoint_s": seconds, "checkpoint_bytes": size}
