"""Runs the benchmarks one after the other, and prints their ratios with the versions and threads that they were measured with.

    make benchmarks                                          all, into docs/results/data: two hours on two cores
    python tests/benchmarks/all.py --only step probe --out-folder /tmp/results
    python tests/benchmarks/all.py --quick                   small sizes, to try the command: its numbers mean nothing

Each benchmark runs in a process of its own and writes a result file (`results.py`), which the documentation shows. One that
fails is reported, and the others still run; the exit code is then 1. What needs a GPU is left out where there is none.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.append(str(HERE))

import torch  # noqa: E402
from results import KEPT, InvalidResultError, Results, read_results  # noqa: E402


class Benchmark(NamedTuple):
    """A run of one script."""

    name: str  # of the result file
    arguments: str  # the script and its options
    quick: str  # options in place of these, where the numbers do not matter
    key: tuple[str, ...]  # columns that name a row
    ratio: str = ""  # column that is a ratio already
    of_first: str = ""  # column of which each row is divided by the first one
    needs_gpu: bool = False


BENCHMARKS = (
    Benchmark(
        "stream_speed", "stream.py --threads 1 --rounds 3 --frames 2500 --skip-rivals --only speed",
        "--rounds 1 --frames 200", ("loader",), ratio="of bare, processor time",
    ),
    Benchmark(
        "stream_traffic", "stream.py --threads 1 --frames 2500 --only traffic", "--frames 400", ("samples",),
        ratio="bytes read for each used",
    ),
    Benchmark(
        "stream_readers", "stream.py --threads 1 --rounds 3 --frames 4000 --only readers", "--rounds 1 --frames 200",
        ("samples", "data.reader"), of_first="training process, µs a frame",
    ),
    Benchmark(
        "stream_s3", "stream_s3.py --frames 1500 --rounds 3", "--frames 200 --rounds 1",
        ("latency, ms", "what is requested"), ratio="of bare, processor time",
    ),
    Benchmark("stream_scale", "stream_scale.py --only scale", "--millions 0.1", ("frames, M", "epoch")),
    Benchmark("stream_cache", "stream_scale.py --only cache", "", ("nodes", "room on each, %")),
    Benchmark(
        "step", "step.py --size 64 --batch 16 --rounds 9", "--size 32 --batch 4 --rounds 1", ("method", "program"),
        ratio="processor time, of plain",
    ),
    Benchmark(
        "probe", "probe.py --frames 60000 --epochs 5 --rounds 3", "--frames 1000 --epochs 1 --rounds 1",
        ("round", "program"), of_first="s",
    ),
    Benchmark(
        "workers", "workers.py --width 16 --batch 16 --rounds 9 --steps 10", "--batch 4 --rounds 1 --steps 1",
        ("case",), ratio="of one worker",
    ),
    Benchmark(
        "modes", "modes.py --rounds 9", "--width 4 --size 32 --batch 4 --rounds 1 --steps 1",
        ("precision", "compile", "channels_last"), ratio="of the first",
    ),
    Benchmark("start", "start.py --rounds 3", "--rounds 1", ("program",), of_first="first step, s"),
    Benchmark("many", "many.py", "--trials 2", ("trainings", "how")),
    Benchmark("compare", "compare.py", "--runs 10 --rounds 1", ("program", "store"), of_first="s"),
    Benchmark("gpu_step", "gpu_step.py", "--tiny", ("case",), ratio="of the matrix rate, %", needs_gpu=True),
)  # fmt: skip


def run(benchmark: Benchmark, *, folder: Path, is_quick: bool) -> Results:
    """Run a benchmark, and return what it wrote. Raises CalledProcessError, InvalidResultError."""
    path = folder / f"{benchmark.name}.json"
    script, *options = benchmark.arguments.split()
    command = [sys.executable, str(HERE / script), *options, *(benchmark.quick.split() if is_quick else ())]
    print(f"\n== {benchmark.name}: {' '.join(map(os.path.basename, command))}", flush=True)
    subprocess.run([*command, "--out", str(path)], check=True)
    return read_results(path)


def list_ratios(benchmark: Benchmark, results: Results) -> list[tuple[str, str]]:
    """The rows' names, each with its ratio; with all columns where the benchmark names none. Raises KeyError."""
    keys = [results.find_column(name) for name in benchmark.key]
    first, ratios = results.rows[0], []
    for row in results.rows:
        name = ", ".join(results.format_cell(row, place) for place in keys)
        if benchmark.ratio:
            text = f"{results.format_cell(row, results.find_column(benchmark.ratio))}  {benchmark.ratio}"
        elif benchmark.of_first:
            place = results.find_column(benchmark.of_first)
            value, base = row[place], first[place]
            is_known = isinstance(value, int | float) and isinstance(base, int | float) and base
            text = f"{value / base:.3g}" if is_known else "-"  # type: ignore[operator]
            text += f"  of the first row's {benchmark.of_first}"
        else:
            others = [place for place in range(len(results.columns)) if place not in keys]
            text = ", ".join(f"{results.columns[place].name} {results.format_cell(row, place)}" for place in others)
        ratios.append((name, text))
    return ratios


def describe(benchmark: Benchmark, results: Results) -> str:
    """The ratios of a benchmark, and with what they were measured."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    machine = results.machine
    host = f"{machine.threads or '?'} threads of {machine.cores} cores, GPU: {machine.gpu}; {versions}"
    lines = [f"{results.title} ({host})"]
    lines += [f"  {name:<36} {text}" for name, text in list_ratios(benchmark, results)]
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[benchmark.name for benchmark in BENCHMARKS])
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the command; needs --out-folder")
    parser.add_argument("--out-folder", type=Path, help=f"of the result files (default {KEPT})")
    options = parser.parse_args()
    if options.quick and not options.out_folder:
        parser.error("--quick needs --out-folder: its numbers are not for the documentation")
    folder, texts, failed = options.out_folder or KEPT, [], []
    for benchmark in BENCHMARKS:
        if options.only and benchmark.name not in options.only:
            continue
        if benchmark.needs_gpu and not torch.cuda.is_available() and not options.quick:
            texts.append(f"{benchmark.name}: left out, it needs a GPU")
            continue
        began = time.monotonic()
        try:
            texts.append(describe(benchmark, run(benchmark, folder=folder, is_quick=options.quick)))
        except (subprocess.CalledProcessError, InvalidResultError, KeyError, ValueError) as error:
            failed.append(f"{benchmark.name}: {error}")
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
    print("\n" + "\n\n".join(texts))
    for text in failed:
        print(f"FAILED {text}", file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
