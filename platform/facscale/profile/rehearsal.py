"""A training for a minute, and each of its parts by itself: what runs inside the workers of `facscale rehearse`."""

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

import fsspec
import ray.train
import ray.train.torch
import torch

from facscale.data.stream import Stream
from facscale.data.views import Batch
from facscale.profile.rates import decode_rate, read_rate
from facscale.profile.usage import Usage, memory_bytes
from facscale.train import checkpoint
from facscale.train.figures import spent
from facscale.train.loop import Run, train
from facscale.train.mailbox import RayMailbox, Reader
from facscale.train.ray.launch import ended
from facscale.train.task import Task
from facscale.train.trainer import storage
from facscale.train.worker import build, open_streams, zipped

WARM_STEPS = 3  # the first ones compile, fill queues and caches
WARM_SHARE = 0.1  # and at least that share of the seconds
BLOCK_S = 5.0  # workers agree anew on a number of steps that often
EXCHANGES = 5
ENDLESS = 1e6  # epochs


@dataclass(frozen=True)
class Measured:
    """What one worker found; rates are its own, of samples unless said."""

    rank: int
    world: int
    device: str  # its name; "" for the CPU
    step_s: float  # of real training
    waited: float  # share of that time in which it had no data: 0 to 1
    cores: float  # that it kept busy meanwhile
    gpu: float | None  # share of that time in which its GPU was busy, if known
    model_step_s: float  # the same batch again and again
    exchange_s: float  # of all gradients, once
    stream_rate: float  # reading and decoding, without training
    read_bytes: float  # a second, from the store
    decode_frames: float  # a second, of all its threads; 0 where no pixels are read
    bytes_per_sample: float
    memory: int  # largest, bytes
    memory_there: int  # of the GPU, or of the node
    checkpoint_s: float  # in which nothing is trained
    checkpoint_bytes: int


def rehearsed(task: Task, *, seconds: float, receive: Callable[..., None]) -> None:
    """Train for some seconds and measure each part: `rehearsal`. What workers find goes to `receive`; nothing is kept.

    Raises as `RayTrainer.train` does, at the first failure.
    """
    name, reader = f"rehearsal-{uuid.uuid4().hex[:12]}", Reader(receive)
    cluster = task.job.cluster.model_copy(update={"max_failures": 0})
    try:
        own = replace(task, job=task.job.model_copy(update={"cluster": cluster}), mailbox=reader.mailbox)
        ended(own, {"task": own, "seconds": seconds}, name=name, loop=rehearse)
    finally:
        reader.close()
        store, folder = fsspec.core.url_to_fs(f"{storage(task.job)}/{name}")
        if store.exists(folder):
            store.rm(folder, recursive=True)


def rehearse(settings: Mapping[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`. Figures go to the task's mailbox; nothing else remains."""
    task: Task = settings["task"]
    seconds: float = settings["seconds"]
    context = ray.train.get_context()
    device, rank, world = ray.train.torch.get_device(), context.get_world_rank(), context.get_world_size()
    streams = open_streams(task, rank=rank, world=world, pin=device.type == "cuda")
    run = build(endless(task), streams, rank=rank, world=world, device=device)
    run.step = 0
    batches = zipped(streams, 0)
    if rank == 0:
        task.tell("stage", what="training")
    with Usage(device) as usage:
        real = paced(run, batches, world=world, seconds=seconds, begun=usage.begin)
    batch = next(batches)
    batches.close()
    part_s = max(1.0, seconds / 12)
    if rank == 0:
        task.tell("stage", what="each part by itself")
    model = paced(run, itertools.repeat(batch), world=world, seconds=part_s)
    found = Measured(
        rank=rank, world=world, device=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        step_s=real.step_s, waited=real.waited, cores=usage.cores, gpu=usage.gpu, model_step_s=model.step_s,
        exchange_s=exchange_s(run, world=world), **data_parts(run, streams, seconds=part_s),
        memory=int(spent(run)["peak_memory_gb"] * 2**30), memory_there=memory_bytes(device), **saved(run),
    )  # fmt: skip
    assert isinstance(task.mailbox, RayMailbox)
    task.mailbox.put_and_wait("measured", {"found": found})  # the worker ends with it


def endless(task: Task) -> Task:
    """The same, without an end in sight: also a job of a few steps is measured for a minute."""
    train_ = task.job.train.model_copy(update={"epochs": ENDLESS})
    return replace(task, job=task.job.model_copy(update={"train": train_}))


@dataclass(frozen=True)
class Pace:
    """Of some steps."""

    step_s: float
    waited: float


def paced(
    run: Run, batches: Iterator[Batch], *, world: int, seconds: float, begun: Callable[[], None] = lambda: None
) -> Pace:
    """Train for about `seconds` after a warm-up; all workers take equally many steps. `begun` is called in between."""
    steps = train(run, batches)

    def taken(count: int) -> float:
        return timed(lambda: deque(itertools.islice(steps, count), maxlen=0), run.device)

    taken(WARM_STEPS)
    once = taken(1)
    warm = agreed(max(1, WARM_SHARE * seconds / once), run, world=world)
    once = taken(math.ceil(warm)) / math.ceil(warm)
    begun()
    waited, passed, done = run.waited, 0.0, 0
    while passed < seconds:
        wanted = math.ceil(agreed(max(1, min(BLOCK_S, seconds - passed) / once), run, world=world))
        passed = agreed(passed + taken(wanted), run, world=world)
        done += wanted
        once = passed / done
    return Pace(passed / done, (run.waited - waited) / passed)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds to the end of what `call` gives the accelerator to do."""
    began = time.monotonic()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began


def agreed(value: float, run: Run, *, world: int) -> float:
    """Rank 0's, on all workers."""
    if world == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64, device=run.device)
    torch.distributed.broadcast(told, 0)
    return float(told.item())


def exchange_s(run: Run, *, world: int) -> float:
    """Seconds in which all workers add up as many numbers as there are gradients, and do nothing else."""
    if world == 1:
        return 0.0
    count = sum(parameter.numel() for engine in run.engines for parameter in engine.parameters.values())
    gradients = torch.zeros(count, device=run.device)
    found = [timed(lambda: torch.distributed.all_reduce(gradients), run.device) for _ in range(1 + EXCHANGES)]
    return sum(found[1:]) / EXCHANGES


def data_parts(run: Run, streams: Mapping[str, Stream], *, seconds: float) -> dict[str, Any]:
    """Reading and decoding together, and each by itself, of the stream that sets the epoch."""
    first = next(iter(streams.values()))
    dataset, pixels = first.datasets[0], any(view.pixels for view in first.views.values())
    share = first.batch_size / first.world
    batches = zipped(dict(streams), 0)
    for _ in range(first.spec.prefetch + 1):
        next(batches)
    began, done = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        next(batches)
        done += 1
    stream_rate = done * share / (time.monotonic() - began)
    batches.close()
    threads = run.job.data.threads
    return {
        "stream_rate": stream_rate,
        "read_bytes": read_rate(dataset, seconds=seconds),
        "decode_frames": decode_rate(dataset, threads=threads, seconds=seconds) if pixels else 0.0,
        "bytes_per_sample": sum(one.bytes_per_epoch / one.samples_per_epoch for one in streams.values()),
    }


def saved(run: Run) -> dict[str, Any]:
    """What a checkpoint costs: seconds without training, and bytes. It is not kept."""
    began = time.monotonic()
    written = checkpoint.write(run)
    passed = time.monotonic() - began
    if written is None:
        return {"checkpoint_s": passed, "checkpoint_bytes": 0}
    size = sum(path.stat().st_size for path in written.rglob("*"))
    shutil.rmtree(written)
    return {"checkpoint_s": passed, "checkpoint_bytes": size}
