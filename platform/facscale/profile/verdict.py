"""What holds a training up, and what would mend it: a function of what its workers measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from facscale.job.cost import Cost
from facscale.profile.rehearsal import Measured
from facscale.spec import Job

STARVED = 0.1  # share of its time that a worker waits for data, above which data is to blame
TALKATIVE = 0.25  # share of a step that adding up gradients may take
IDLE = 0.7  # share of the time that a GPU, or a worker's cores, should at least be busy
FULL = 0.9  # share of the memory that may be used before a larger batch is no advice


@dataclass(frozen=True)
class Parts:
    """Samples a second of all workers: of training, and of each of its parts if it were alone."""

    together: float
    model: float
    exchange: float
    stream: float
    read: float
    decode: float

    @classmethod
    def of(cls, found: Sequence[Measured], *, job: Job, frames: int) -> Parts:
        """`frames`: decoded for one sample. The slowest worker is everybody's pace where they take steps together."""
        batch, slowest = job.train.batch_size, max(one.step_s for one in found)
        each = min(one.decode_frames for one in found) * len(found)
        return cls(
            together=batch / slowest,
            model=batch / max(one.model_step_s for one in found),
            exchange=ratio(batch, max(one.exchange_s for one in found)),
            stream=min(one.stream_rate for one in found) * len(found),
            read=ratio(min(one.read_bytes for one in found) * len(found), found[0].bytes_per_sample),
            decode=ratio(each, frames) if frames else math.inf,
        )


@dataclass(frozen=True)
class Verdict:
    """The bottleneck in a word and in words, and its mends, the best first."""

    bottleneck: str  # storage, decoding, exchange, launching, neighbours, model
    why: str
    mends: tuple[str, ...]


def judged(found: Sequence[Measured], parts: Parts, *, job: Job, cached: bool) -> Verdict:
    """`cached`: whether what is read from the store stays on the nodes' disks from the second epoch on."""
    waited = max(one.waited for one in found)
    if waited > STARVED:
        return of_data(found, parts, waited=waited, job=job, cached=cached)
    share = parts.model / parts.exchange
    if share > TALKATIVE:
        return Verdict("exchange", f"adding up gradients takes {share:.0%} of a step", of_exchange(job))
    busy = [one.gpu for one in found if one.gpu is not None]
    if busy and min(busy) < IDLE:
        mends = (*larger_batch(found, job), *compiling(job))
        return Verdict("launching", f"data is there, but a GPU is busy {min(busy):.0%} of the time", mends)
    cores = min(one.cores for one in found) / job.cluster.cpus_per_worker
    if not found[0].device and cores < IDLE:
        mends = ("see what else runs on these nodes (top); Ray only counts what asks it",)
        return Verdict("neighbours", f"a worker got {cores:.0%} of the cores that it asks for", mends)
    why = f"the model's own steps: data is waited for {waited:.0%} of the time"
    return Verdict("model", why, of_model(found, job))


def of_data(found: Sequence[Measured], parts: Parts, *, waited: float, job: Job, cached: bool) -> Verdict:
    """Reading or decoding, whichever is slower by itself."""
    rate = min(one.read_bytes for one in found) / 1e6
    if parts.read < parts.decode:
        first = "the first epoch only, for all of it stays in data.cache" if cached else ""
        mends = (
            *([first] if first else [f"raise data.cache_gb ({job.data.cache_gb:g}) until the data sets fit"]),
            "bring the bucket into the cluster's region, or onto the nodes",
            "make the data sets again with smaller crops (crop.size) or a lower crop.quality",
        )
        return Verdict(
            "storage", f"data is waited for {waited:.0%} of the time: a worker reads {rate:,.0f} MB/s", mends
        )
    frames = min(one.decode_frames for one in found)
    cores, threads = job.cluster.cpus_per_worker, job.data.threads
    more = f"data.threads={2 * threads} and cluster.cpus_per_worker={max(cores, 2 * threads):g}"
    mends = (
        more if cores < 2 * threads else f"data.threads={min(int(cores), 2 * threads)} (a worker has {cores:g} cores)",
        f"make the data sets again with smaller crops: pixels beyond {job.data.image_size} are decoded in vain",
        "more workers with fewer samples each, on nodes with idle cores",
    )
    return Verdict(
        "decoding", f"data is waited for {waited:.0%} of the time: a worker decodes {frames:,.0f} frames/s", mends
    )


def of_exchange(job: Job) -> tuple[str, ...]:
    """Against talk between workers."""
    batch = 2 * job.train.batch_size
    return (
        f"train.batch_size={batch}, or train.accumulate={2 * job.train.accumulate} with it: half as many exchanges a sample",
        "fewer workers, with several GPUs on one node",
        "a faster network between nodes: see that NCCL finds it (NCCL_DEBUG=INFO)",
    )


def of_model(found: Sequence[Measured], job: Job) -> tuple[str, ...]:
    """Against the arithmetic itself."""
    more = job.cluster.most_workers * 2
    mends = [*compiling(job), *larger_batch(found, job)]
    if found[0].device and job.train.precision == "float32":
        mends.insert(0, "train.precision=bf16")
    divides = job.train.batch_size % (more * job.train.accumulate) == 0
    side = 32 * max(1, round(job.data.image_size * 0.75 / 32))
    return (
        *mends,
        f"cluster.workers={more}" if divides else f"cluster.workers={more}, with a batch that they can share",
        *([f"data.image_size={side}, if the faces bear it"] if side < job.data.image_size else []),
    )


def larger_batch(found: Sequence[Measured], job: Job) -> list[str]:
    """Where a GPU has memory left for it."""
    fits = all(2 * one.memory < FULL * one.memory_there for one in found)
    return [f"train.batch_size={2 * job.train.batch_size}: the memory holds it"] if fits and found[0].device else []


def compiling(job: Job) -> list[str]:
    """Where it is not done yet, and there is a GPU."""
    return ["train.compile=true"] if job.cluster.gpus_per_worker and not job.train.compile else []


def expected(cost: Cost, *, frames: int, measured: Cost, measured_frames: int, parts: Parts) -> float:
    """Samples a second of another training on these workers: by its operations, or by its frames, whichever takes longer."""
    by_model = parts.model * measured.flops_per_sample / max(cost.flops_per_sample, 1.0)
    by_data = ratio(parts.stream * measured_frames, frames) if measured_frames else math.inf
    together = parts.together / min(parts.model, parts.stream)  # what is lost where both share cores
    return together * min(by_model, by_data)


def ratio(amount: float, of: float) -> float:
    """Their quotient; infinite where there is nothing to divide by."""
    return amount / of if of else math.inf
