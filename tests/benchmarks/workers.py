"""How much faster two workers train than one, and where the rest goes, on the cores of this machine.

    python tests/benchmarks/workers.py [--workers 2] [--width 64] [--size 64] [--batch 32] [--steps 12] [--rounds 3] [--out FILE]

CLP as `facscale run` trains it (streams, augmentation, DeepSpeed, the loop's own steps), without Ray, a thread of torch for
each worker. All cases train on the same number of samples in a step of all workers together, and the first is one worker
with all of them. Then come processes that share the work and exchange nothing: first with the whole batch each, which says
what the machine's cores give to a second process, then with their share of it, which adds what a step costs whatever the batch.
Each further case adds one thing that workers wait for: the gradients and keys that they exchange, the sharded optimizer,
BatchNorm over all workers, the decoding of their frames on the same cores. The cases take turns; the median of the
rounds is printed. "exchange": what a worker's collectives took, waiting for the other worker included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent)]

import torch  # noqa: E402
from results import ResultWriter, add_out_option, read_versions  # noqa: E402
from torch import distributed  # noqa: E402

from faces import make_track, write_tracks  # noqa: E402
from facscale.methods import DataFacts, find_method  # noqa: E402
from facscale.spec import Job  # noqa: E402
from facscale.train.loop import take_steps  # noqa: E402
from facscale.train.setup import build_state, merge_streams, open_streams  # noqa: E402
from facscale.train.state import TrainState  # noqa: E402
from facscale.train.task import TrainingTask  # noqa: E402

PEOPLE, TRACK = 40, 100
COLUMNS = {
    "case": None,
    "processes": 0,
    "samples each": 0,
    "ms a step": 1,
    "of one worker": 2,
    "smallest": 2,
    "largest": 2,
    "processor ms a step": 1,
    "exchange, ms": 1,
}


class Case(NamedTuple):
    """How the processes train."""

    name: str
    is_shared: bool = True  # each process has its share of the batch, not all of it
    exchanges: bool = True  # they are workers of one training
    workers: int = 0  # 0: --workers
    stage: int = 0
    sync_batchnorm: bool = False
    streams: bool = False  # frames are read and decoded, not in memory


CASES = (
    Case("one worker", workers=1),
    Case("apart, the whole batch each", is_shared=False, exchanges=False),
    Case("apart, a share each", exchanges=False),
    Case("workers"),
    Case("workers, ZeRO 1", stage=1),
    Case("workers, sync_batchnorm", sync_batchnorm=True),
    Case("one worker, decoding", workers=1, streams=True),
    Case("workers, decoding", streams=True),
)


class Pace(NamedTuple):
    """What one process measured, of a step."""

    clock: float  # seconds
    processor: float  # seconds, all threads
    exchange: float  # seconds in collectives


def make_task(case: Case, options: argparse.Namespace, *, samples: int) -> TrainingTask:
    """The training of a case, with `samples` in a step of all its workers."""
    job = Job.model_validate(
        {
            "method": {"name": "clp", "depth": options.depth, "width": options.width, "queue_size": 2048},
            "data": {"unlabelled": options.folder, "image_size": options.size, "threads": 1},
            "train": {
                "batch_size": samples,
                "epochs": 1e6,
                "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
                "sync_batchnorm": case.sync_batchnorm,
            },
            "cluster": {"gpus_per_worker": 0, "workers": 1},
            "deepspeed": {"zero_optimization": {"stage": case.stage}},
        }
    )
    values = {key: value for key, value in job.method.model_dump().items() if key != "name"}
    return TrainingTask(job, find_method("clp").Config.model_validate(values), DataFacts(identities=PEOPLE))


def begin_steps(
    task: TrainingTask, *, rank: int = 0, world: int = 1, is_decoding: bool = False
) -> Iterator[TrainState]:
    """The steps of a training on the CPU, on two batches that stay in memory unless `is_decoding`."""
    streams = open_streams(task, rank=rank, world=world, pin=False)
    state = build_state(task, streams, rank=rank, world=world, device=torch.device("cpu"))
    batches = merge_streams(streams, 0)
    if is_decoding:
        return take_steps(state, batches)
    kept = list(itertools.islice(batches, 2))
    batches.close()
    return take_steps(state, itertools.cycle(kept))


def write_faces(folder: str, *, side: int) -> None:
    """Write the data set that the trainings read."""
    tracks = (make_track(person, frames=range(TRACK), size=side, quality=92) for person in range(PEOPLE))
    write_tracks(folder, tracks, size=side)


class CollectiveTimer:
    """Takes the time of every collective of torch.distributed that this process calls, until its result is there."""

    NAMES = ("all_reduce", "all_gather", "all_gather_into_tensor", "all_to_all_single", "broadcast", "reduce")

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in self.NAMES:
            setattr(distributed, name, self._time(getattr(distributed, name)))

    def _time(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            work = function(*args, **kwargs)
            if work is not None:  # it was asked not to wait
                work.wait()
            self.seconds += time.perf_counter() - began
            return work

        return timed


def run_worker(case: Case, options: argparse.Namespace, *, rank: int, store: str) -> None:
    """Take steps whenever a line of this program's input says so, and print the pace of each time."""
    processes = case.workers or options.workers
    rank, world = (rank, processes) if case.exchanges else (0, 1)
    torch.set_num_threads(1)
    timer = CollectiveTimer()
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    samples = options.batch // processes * world if case.is_shared else options.batch
    task = make_task(case, options, samples=samples)
    steps = begin_steps(task, rank=rank, world=world, is_decoding=case.streams)
    next(steps)
    print("ready", flush=True)
    for _ in sys.stdin:
        next(steps)  # the processes have begun, and their memory is in use again
        timer.seconds, clock, processor = 0.0, time.perf_counter(), time.process_time()
        for _ in range(options.steps):
            next(steps)
        pace = Pace(time.perf_counter() - clock, time.process_time() - processor, timer.seconds)
        print(json.dumps([value / options.steps for value in pace]), flush=True)


class Team:
    """The processes of a case, which wait while other cases train."""

    def __init__(self, case: Case, options: argparse.Namespace, *, folder: Path) -> None:
        self.case, self.size = case, case.workers or options.workers
        command = [sys.executable, __file__, *options.arguments, "--folder", options.folder, "--case", case.name]
        self._processes = [
            subprocess.Popen(
                [*command, "--rank", str(rank), "--store", f"{folder / case.name} {0 if case.exchanges else rank}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "LOCAL_RANK": str(rank)},
            )
            for rank in range(self.size)
        ]  # fmt: skip
        for process in self._processes:
            wait_for_line(process, "ready")

    def measure(self) -> Pace:
        """Let all processes train at the same time; their mean."""
        for process in self._processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        paces = [Pace(*json.loads(wait_for_line(process, "["))) for process in self._processes]
        return Pace(*map(statistics.mean, zip(*paces, strict=True)))

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> str:
    """The next line of a process that begins so. Raises RuntimeError if it ends before."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise RuntimeError(f"a process ended with {process.wait()}")


def compare(options: argparse.Namespace, table: ResultWriter, *, folder: Path) -> None:
    """Measure all cases in turn, and print and write how much faster each is than one worker."""
    with ExitStack() as stack:
        teams = []
        for case in CASES:
            teams.append(Team(case, options, folder=folder))
            stack.callback(teams[-1].stop)
        paces = [[team.measure() for team in teams] for _ in range(options.rounds)]
    print(f"{'case':<32}{'ms a step':>10}{'of one worker (min..max)':>28}{'processor ms':>14}{'exchange, ms':>14}")
    for team, values in zip(teams, zip(*paces, strict=True), strict=True):
        case = team.case
        samples = options.batch // team.size if case.is_shared else options.batch
        alone = next(place for place, one in enumerate(CASES) if one.workers == 1 and one.streams is case.streams)
        share = team.size * samples / options.batch
        ratios = [share * pace[alone].clock / own.clock for pace, own in zip(paces, values, strict=True)]
        clock, processor, exchange = (1000 * statistics.median(column) for column in zip(*values, strict=True))
        ratio = statistics.median(ratios), min(ratios), max(ratios)
        spread = "{:.2f} ({:.2f}..{:.2f})".format(*ratio)
        print(f"{case.name:<32}{clock:10.1f}{spread:>28}{processor:14.1f}{exchange:14.1f}")
        table.add(case.name, team.size, samples, clock, *ratio, processor, exchange)


def main() -> None:
    """Compare the cases, or be one of their processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"workers": 2, "depth": 18, "width": 64, "size": 64, "batch": 32, "steps": 12, "rounds": 3}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("folder", "case", "store"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    add_out_option(parser)
    options = parser.parse_args()
    if options.case:
        case = next(case for case in CASES if case.name == options.case)
        run_worker(case, options, rank=options.rank, store=options.store)
        return
    options.arguments = [f"--{name}={getattr(options, name)}" for name in defaults]
    with tempfile.TemporaryDirectory() as folder:
        options.folder = f"{folder}/faces"
        write_faces(options.folder, side=options.size)
        title = f"{options.workers} workers beside one: CLP, ResNet-{options.depth} of width {options.width}"
        title += f", {options.batch} clips of {options.size} pixels"
        versions = read_versions("deepspeed", "torch")
        with ResultWriter(options.out, title=title, columns=COLUMNS, threads=1, versions=versions) as table:
            compare(options, table, folder=Path(folder))


if __name__ == "__main__":
    main()
