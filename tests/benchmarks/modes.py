"""What compiling, bfloat16 and the layout of images are worth in a training step on this machine's CPU.

    python tests/benchmarks/modes.py [--width 16] [--size 64] [--batch 16] [--rounds 7] [--steps 2] [--out FILE]

CLP's step as `facscale run` takes it, with batches in memory, by all combinations of `train.precision`, `train.compile` and
`train.channels_last`. They take turns, and a ratio is that of neighbouring measurements: the median of the rounds. For a
GPU there is gpu_step.py.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent)]

import torch  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402
from workers import CASES, begin_steps, make_task, write_faces  # noqa: E402

from facscale.train.local import join_process_group  # noqa: E402
from facscale.train.state import TrainState  # noqa: E402

COLUMNS = {
    "precision": None,
    "compile": None,
    "channels_last": None,
    "first steps, s": 1,
    "ms a step": 1,
    "of the first": 2,
    "smallest": 2,
    "largest": 2,
}


class Mode(NamedTuple):
    """How a training computes."""

    precision: str
    compile: bool
    channels_last: bool


MODES = [Mode(*choice) for choice in itertools.product(("float32", "bf16"), (False, True), (False, True))]


def begin(mode: Mode, options: argparse.Namespace) -> Iterator[TrainState]:
    """The steps of a training whose batches are in memory."""
    task = make_task(CASES[0], options, samples=options.batch)
    train = task.job.train.model_copy(update=mode._asdict())
    task = replace(task, job=task.job.model_copy(update={"train": train}))
    return begin_steps(task)


def measure(steps: Iterator[TrainState], *, count: int) -> float:
    """Seconds of a step."""
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    return (time.perf_counter() - began) / count


def compare(options: argparse.Namespace, table: ResultWriter) -> None:
    """Measure all modes in turn, and print and write their times and ratios."""
    trainings = {mode: begin(mode, options) for mode in MODES}
    first = {mode: 2 * measure(steps, count=2) for mode, steps in trainings.items()}
    rounds = [
        {mode: measure(steps, count=options.steps) for mode, steps in trainings.items()} for _ in range(options.rounds)
    ]
    for mode in MODES:
        ratios = [times[mode] / times[MODES[0]] for times in rounds]
        clock, ratio = 1000 * statistics.median(times[mode] for times in rounds), statistics.median(ratios)
        names = mode.precision, *("yes" if value else "no" for value in mode[1:])
        table.add(*names, first[mode], clock, ratio, min(ratios), max(ratios))
        words = ("compiled" if mode.compile else "eager", "last" if mode.channels_last else "first")
        print(
            f"{mode.precision:<8} {words[0]:<9} channels {words[1]:<6}{clock:8.1f} ms a step {ratio:6.2f}", flush=True
        )


def main() -> None:
    """Compare the modes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"depth": 18, "width": 16, "size": 64, "batch": 16, "rounds": 7, "steps": 2}
    for name, value in {**defaults, "threads": len(os.sched_getaffinity(0))}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    add_out_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    join_process_group(has_gpu=False)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = f"{folder}/faces"
        write_faces(options.folder, side=options.size)
        title = f"CLP, ResNet-{options.depth} of width {options.width}, {options.batch} clips of {options.size} pixels, on a CPU"
        with ResultWriter(options.out, title=title, columns=COLUMNS, threads=options.threads) as table:
            compare(options, table)


if __name__ == "__main__":
    main()
