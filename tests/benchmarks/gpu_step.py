"""What a training step of CLP at full size costs on this GPU, and where its time goes: at most 8 minutes.

    python tests/benchmarks/gpu_step.py [--seconds 360] [--threads 12] [--out FILE]
    python tests/benchmarks/gpu_step.py --tiny      # a small network on a CPU, not compiled, to try the script

Each case is a job as `facscale run` trains it (streams, augmentation, DeepSpeed, the loop's own steps) with one worker:
jobs/clp.yaml's network and batch, on frames that are made here (256 px, JPEG quality 92). "memory": the decoded batches
are there already, so that the step is all that is measured; "stream": they are read and decoded from the local disk;
"reader": the same in a process of its own (`data.reader=process`).
Printed for each case: milliseconds of a step, images a second that the networks see, share of the card's bf16 rate (a
product of 8192 x 8192 matrices, measured first), the largest memory, and the operations of a step at which the host
waits for the device, by the line that calls them. The last table lists the kernels of the fastest case.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent)]

import torch  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from faces import make_track, write_tracks  # noqa: E402
from facscale.data.views import Batch  # noqa: E402
from facscale.job.cost import Cost, estimate_cost  # noqa: E402
from facscale.methods import DataFacts, find_method  # noqa: E402
from facscale.spec import Job  # noqa: E402
from facscale.train.local import join_process_group  # noqa: E402
from facscale.train.loop import take_steps  # noqa: E402
from facscale.train.setup import build_state, merge_streams, open_streams  # noqa: E402
from facscale.train.state import TrainState  # noqa: E402
from facscale.train.task import TrainingTask  # noqa: E402

IMAGES = 13  # of a sample: a clip of 9, and 2 frames in two views; 11 of them also pass backwards
PEOPLE, TRACK = 80, 100
COLUMNS = {
    "case": None,
    "ms a step": 1,
    "first step, s": 1,
    "images/s": 0,
    "of the matrix rate, %": 1,
    "memory, GiB": 1,
    "waits for data, %": 0,
    "host waits a step": 0,
}
FULL = {"depth": 34, "image_size": 224, "batch_size": 64, "queue_size": 65536, "width": 64}
TINY = {"depth": 18, "image_size": 32, "batch_size": 4, "queue_size": 256, "width": 4}


@dataclass(frozen=True)
class Case:
    """A way to train."""

    data: str  # memory, stream, or reader: a stream with a process of its own
    compiled: bool = False
    stage: int = 0
    precision: str = "bf16"
    channels_last: bool = True

    @property
    def name(self) -> str:
        """As in the table."""
        layout = "channels last" if self.channels_last else "channels first"
        mode = "compiled" if self.compiled else "eager"
        return f"{mode}, ZeRO {self.stage}, {self.precision}, {layout}, {self.data}"


CASES = (  # the most telling first: where time runs out, the last are left out
    Case("memory"),
    Case("stream"),
    Case("reader"),
    Case("memory", compiled=True),
    Case("memory", stage=1),
    Case("stream", compiled=True),
    Case("memory", channels_last=False),
    Case("memory", compiled=True, stage=1),
    Case("memory", precision="float32"),
)


@dataclass(frozen=True)
class Result:
    """What one case measured."""

    name: str
    step_ms: float
    first_step_s: float  # compiling included
    images_per_s: float
    share: float  # of the measured bf16 rate
    memory_gib: float  # largest that torch allocated; 0 on a CPU
    data_wait: float  # share of the time without a batch
    waits: dict[str, int] = field(default_factory=dict)  # of the host for the device in one step, by line


def make_job(case: Case, sizes: dict[str, int], *, folder: str, threads: int) -> Job:
    """The job of a case."""
    method = {"name": "clp", **{key: sizes[key] for key in ("depth", "queue_size", "width")}}
    train = {
        "batch_size": sizes["batch_size"],
        "epochs": 1e6,
        "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
        "precision": case.precision,
        "compile": case.compiled,
        "channels_last": case.channels_last,
    }
    data = {"unlabelled": folder, "image_size": sizes["image_size"], "threads": threads}
    data["reader"] = "process" if case.data == "reader" else "threads"
    cluster = {"gpus_per_worker": float(torch.cuda.is_available())}
    stage = {"zero_optimization": {"stage": case.stage}}
    return Job.model_validate({"method": method, "data": data, "train": train, "cluster": cluster, "deepspeed": stage})


def make_task(job: Job) -> TrainingTask:
    """The training of a job on unlabelled faces."""
    values = {key: value for key, value in job.method.model_dump().items() if key != "name"}
    return TrainingTask(job, find_method("clp").Config.model_validate(values), DataFacts(identities=PEOPLE))


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_card(device: torch.device) -> float:
    """Operations a second of a bf16 matrix product; on a CPU of a small float32 one."""
    is_gpu = device.type == "cuda"
    side, rounds = (8192, 30) if is_gpu else (512, 5)
    a = torch.rand(side, side, device=device, dtype=torch.bfloat16 if is_gpu else torch.float32)
    for _ in range(3):
        a @ a
    wait(device)
    began = time.perf_counter()
    for _ in range(rounds):
        a @ a
    wait(device)
    return rounds * 2 * side**3 / (time.perf_counter() - began)


def count_waits(steps: Iterator[TrainState], device: torch.device) -> dict[str, int]:
    """The operations of one step at which the host waits for the device, by file and line; empty on a CPU."""
    if device.type != "cuda":
        next(steps)
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = [f"{Path(item.filename).name}:{item.lineno}" for item in caught if "synchronizing" in str(item.message)]
    return dict(Counter(lines))


def open_case(task: TrainingTask, case: Case, device: torch.device) -> tuple[TrainState, Iterator[Batch]]:
    """The state of a training whose queue is full, as it is from step 512 on, and its batches."""
    streams = open_streams(task, rank=0, world=1, pin=device.type == "cuda")
    state = build_state(task, streams, rank=0, world=1, device=device)
    queue = state.method.queue
    queue.keys.copy_(torch.nn.functional.normalize(torch.randn_like(queue.keys), dim=1))
    queue.filled.fill_(queue.size)
    batches: Iterator[Batch] = merge_streams(streams, 0)
    if case.data == "memory":
        kept = list(itertools.islice(batches, 2))
        batches.close()  # type: ignore[attr-defined]
        batches = itertools.cycle(kept)
    return state, batches


def measure(
    case: Case, task: TrainingTask, *, cost: Cost, rate: float, seconds: float, device: torch.device
) -> tuple[Result, str]:
    """Train for some seconds; returns the operations that take longest, too."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    state, batches = open_case(task, case, device)
    steps = take_steps(state, batches)
    next(steps)
    wait(device)
    first = time.perf_counter() - began
    for _ in range(4):  # the allocator settles
        next(steps)
    waits = count_waits(steps, device)
    wait(device)
    began, count, waited = time.perf_counter(), 0, state.data_wait_s
    while count < 5 or time.perf_counter() - began < seconds:
        next(steps)
        count += 1
        if count % 10 == 0:
            wait(device)  # so that the clock sees the device and not the queue before it
    wait(device)
    elapsed = time.perf_counter() - began
    size, waited = task.job.train.batch_size, state.data_wait_s - waited
    kernels = list_kernels(steps, device)
    steps.close()  # type: ignore[attr-defined]
    if case.data != "memory":
        batches.close()  # type: ignore[attr-defined]
    result = Result(
        case.name,
        step_ms=1000 * elapsed / count,
        first_step_s=first,
        images_per_s=IMAGES * size * count / elapsed,
        share=cost.flops_per_sample * size * count / elapsed / rate,
        memory_gib=torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0,
        data_wait=waited / elapsed,
        waits=waits,
    )
    return result, kernels


def list_kernels(steps: Iterator[TrainState], device: torch.device) -> str:
    """A table of the operations in which three steps spend most of their time."""
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(3):
            next(steps)
        wait(device)
    order = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


def main() -> None:
    """Measure every case that the time allows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=360.0, help="after which no case begins")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="that decode")
    parser.add_argument("--tiny", action="store_true", help="a small network, a few steps")
    add_out_option(parser)
    options = parser.parse_args()
    title = "A training step of CLP" + (", small" if options.tiny else ", at full size")
    with ResultWriter(options.out, title=title, columns=COLUMNS, threads=options.threads) as table:
        measure_cases(options, table)


def measure_cases(options: argparse.Namespace, table: ResultWriter) -> None:
    """Measure every case that the time allows."""
    began = time.perf_counter()
    sizes = TINY if options.tiny else FULL
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    join_process_group(has_gpu=device.type == "cuda")
    rate = measure_card(device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    table.note(f"A product of matrices reaches {rate / 1e12:.3g} TFLOP/s.")
    print(f"{card}, torch {torch.__version__}; a matrix product reaches {rate / 1e12:.3g} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        people, side = (6, 64) if options.tiny else (PEOPLE, 256)
        tracks = (make_track(person, frames=range(TRACK), size=side, quality=92) for person in range(people))
        write_tracks(f"{folder}/faces", tracks, size=side, row_group_mb=8.0, shard_mb=64.0)
        best: tuple[Result, str] | None = None
        for number, case in enumerate(CASES):
            if options.tiny and case.compiled:  # for minutes, on a CPU
                continue
            left = options.seconds - (time.perf_counter() - began)
            if left < 20 and number and not options.tiny:
                print(f"no time is left for: {case.name}")
                continue
            task = make_task(make_job(case, sizes, folder=f"{folder}/faces", threads=options.threads))
            cost = estimate_cost(task.config, job=task.job, facts=task.facts, inputs={})
            seconds = 0.0 if options.tiny else min(20.0, left / 8)
            try:
                result, kernels = measure(case, task, cost=cost, rate=rate, seconds=seconds, device=device)
            except RuntimeError as error:  # such as too little memory, or no compiler: the other cases still count
                print(f"{case.name}: failed: {str(error).splitlines()[0][:200]}", flush=True)
                continue
            print(describe(result), flush=True)
            shares = 100 * result.share, result.memory_gib or None, 100 * result.data_wait, sum(result.waits.values())
            table.add(result.name, result.step_ms, result.first_step_s, result.images_per_s, *shares)
            if case.data == "memory" and (best is None or result.step_ms < best[0].step_ms):
                best = result, kernels
        if best is not None:
            print(f"\nthree steps of: {best[0].name}\n{best[1]}")
    print(f"{time.perf_counter() - began:.0f} s in all")


def describe(result: Result) -> str:
    """One case in words."""
    waits = ", ".join(f"{line} {count}" for line, count in sorted(result.waits.items(), key=lambda item: -item[1]))
    return (
        f"{result.name}: {result.step_ms:.1f} ms a step (the first {result.first_step_s:.1f} s), "
        f"{result.images_per_s:,.0f} images/s, {result.share:.1%} of the matrix rate, {result.memory_gib:.1f} GiB, "
        f"waits for data {result.data_wait:.0%}; host waits: {sum(result.waits.values())}"
        + (f" ({waits})" if waits else "")
    )


if __name__ == "__main__":
    main()
