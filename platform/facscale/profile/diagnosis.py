"""The bottleneck of a training and what would remove it, from what its workers measured. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from facscale.job.cost import Cost
from facscale.profile.worker import WorkerProfile
from facscale.spec import Job

MAX_DATA_WAIT = 0.1  # share of its time that a worker waits for data; above it, data is the bottleneck
MAX_EXCHANGE = 0.25  # share of a step that adding up gradients may take
MIN_BUSY = 0.7  # share of the time that a GPU, or a worker's cores, should be busy
MAX_MEMORY = 0.9  # share of the memory up to which a larger batch is suggested


@dataclass(frozen=True)
class PartRates:
    """Samples a second of all workers together: of training, and of each of its parts by itself."""

    training: float
    model: float
    exchange: float
    stream: float
    read: float
    decode: float

    @classmethod
    def from_workers(cls, workers: Sequence[WorkerProfile], *, job: Job, frames: int) -> PartRates:
        """`frames`: decoded for one sample. The slowest worker sets the pace of all."""
        batch, slowest = job.train.batch_size, max(worker.step_s for worker in workers)
        each = min(worker.decode_frames for worker in workers) * len(workers)
        return cls(
            training=batch / slowest,
            model=batch / max(worker.model_step_s for worker in workers),
            exchange=divide(batch, max(worker.exchange_s for worker in workers)),
            stream=min(worker.stream_rate for worker in workers) * len(workers),
            read=divide(min(worker.read_bytes for worker in workers) * len(workers), workers[0].bytes_per_sample),
            decode=divide(each, frames) if frames else math.inf,
        )


@dataclass(frozen=True)
class Diagnosis:
    """The bottleneck, why, and suggestions to remove it, the best first."""

    bottleneck: str  # storage, decoding, exchange, launching, neighbours, model
    reason: str
    suggestions: tuple[str, ...]


def diagnose(workers: Sequence[WorkerProfile], rates: PartRates, *, job: Job, cached: bool) -> Diagnosis:
    """Name the bottleneck. `cached`: whether what is read from the store stays on the nodes' disks from the second epoch on."""
    data_wait = max(worker.data_wait for worker in workers)
    if data_wait > MAX_DATA_WAIT:
        return diagnose_data(workers, rates, data_wait=data_wait, job=job, cached=cached)
    share = rates.model / rates.exchange
    if share > MAX_EXCHANGE:
        return Diagnosis("exchange", f"adding up gradients takes {share:.0%} of a step", suggest_for_exchange(job))
    busy = [worker.gpu for worker in workers if worker.gpu is not None]
    if busy and min(busy) < MIN_BUSY:
        suggestions = (*suggest_batch(workers, job), *suggest_reader(job), *suggest_compile(job))
        return Diagnosis("launching", f"data is there, but a GPU is busy {min(busy):.0%} of the time", suggestions)
    cores = min(worker.cores for worker in workers) / job.cluster.cpus_per_worker
    if not workers[0].device and cores < MIN_BUSY:
        suggestions = ("see what else runs on these nodes (top); Ray only counts what asks it",)
        return Diagnosis("neighbours", f"a worker got {cores:.0%} of the cores that it asks for", suggestions)
    reason = f"the model's own steps: data is waited for {data_wait:.0%} of the time"
    return Diagnosis("model", reason, suggest_for_model(workers, job))


def diagnose_data(
    workers: Sequence[WorkerProfile], rates: PartRates, *, data_wait: float, job: Job, cached: bool
) -> Diagnosis:
    """Name reading or decoding, whichever is slower by itself."""
    rate = min(worker.read_bytes for worker in workers) / 1e6
    if rates.read < rates.decode:
        first = "the first epoch only, for all of it stays in data.cache" if cached else ""
        suggestions = (
            *([first] if first else [f"raise data.cache_gb ({job.data.cache_gb:g}) until the data sets fit"]),
            "bring the bucket into the cluster's region, or onto the nodes",
            "make the data sets again with smaller crops (crop.size) or a lower crop.quality",
        )
        return Diagnosis(
            "storage", f"data is waited for {data_wait:.0%} of the time: a worker reads {rate:,.0f} MB/s", suggestions
        )
    frames = min(worker.decode_frames for worker in workers)
    cores, threads = job.cluster.cpus_per_worker, job.data.threads
    threads_and_cores = f"data.threads={2 * threads} and cluster.cpus_per_worker={max(cores, 2 * threads):g}"
    suggestions = (
        threads_and_cores
        if cores < 2 * threads
        else f"data.threads={min(int(cores), 2 * threads)} (a worker has {cores:g} cores)",
        f"make the data sets again with smaller crops: pixels beyond {job.data.image_size} are decoded in vain",
        *suggest_reader(job),
        "more workers with fewer samples each, on nodes with idle cores",
    )
    return Diagnosis(
        "decoding",
        f"data is waited for {data_wait:.0%} of the time: a worker decodes {frames:,.0f} frames/s",
        suggestions,
    )


def suggest_for_exchange(job: Job) -> tuple[str, ...]:
    """Suggest how workers exchange less."""
    batch = 2 * job.train.batch_size
    return (
        f"train.batch_size={batch}, or train.accumulate={2 * job.train.accumulate} with it: half as many exchanges a sample",
        "fewer workers, with several GPUs on one node",
        "a faster network between nodes: see that NCCL finds it (NCCL_DEBUG=INFO)",
    )


def suggest_for_model(workers: Sequence[WorkerProfile], job: Job) -> tuple[str, ...]:
    """Suggest how the arithmetic takes less time."""
    more = job.cluster.max_workers * 2
    suggestions = [*suggest_compile(job), *suggest_batch(workers, job)]
    if workers[0].device and job.train.precision == "float32":
        suggestions.insert(0, "train.precision=bf16")
    divides = job.train.batch_size % (more * job.train.accumulate) == 0
    side = 32 * max(1, round(job.data.image_size * 0.75 / 32))
    return (
        *suggestions,
        f"cluster.workers={more}" if divides else f"cluster.workers={more}, with a batch that they can share",
        *([f"data.image_size={side}, if the faces bear it"] if side < job.data.image_size else []),
    )


def suggest_batch(workers: Sequence[WorkerProfile], job: Job) -> list[str]:
    """Suggest a larger batch, where a GPU has memory left for it."""
    fits = all(2 * worker.memory < MAX_MEMORY * worker.memory_size for worker in workers)
    return [f"train.batch_size={2 * job.train.batch_size}: the memory holds it"] if fits and workers[0].device else []


def suggest_reader(job: Job) -> list[str]:
    """Suggest a process for reading, where there is a GPU and none yet: beside it, reading delays what Python launches."""
    has_none = job.cluster.gpus_per_worker and job.data.reader == "threads"
    return ["data.reader=process, where cores are idle: reading then leaves the training's process"] if has_none else []


def suggest_compile(job: Job) -> list[str]:
    """Suggest compilation, where there is a GPU and it is not done yet."""
    return ["train.compile=true"] if job.cluster.gpus_per_worker and not job.train.compile else []


def estimate_rate(cost: Cost, *, frames: int, measured: Cost, measured_frames: int, rates: PartRates) -> float:
    """Estimate samples a second of another training on these workers: from its operations or its frames, whichever takes longer."""
    by_model = rates.model * measured.flops_per_sample / max(cost.flops_per_sample, 1.0)
    by_data = divide(rates.stream * measured_frames, frames) if measured_frames else math.inf
    interference = rates.training / min(rates.model, rates.stream)  # what is lost where both share cores
    return interference * min(by_model, by_data)


def divide(amount: float, divisor: float) -> float:
    """The quotient; infinite for a divisor of 0."""
    return amount / divisor if divisor else math.inf
