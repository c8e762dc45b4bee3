"""How long a training takes from the command to its first step, beside bare Ray Train, and where the time goes.

    python tests/benchmarks/start.py [--rounds 3] [--workers 2] [--out FILE]

Both train a tiny network on CPUs, each time in a new process that starts a Ray of its own: `facscale run` of a job with two
workers, and a script that does with Ray Train and torch's DDP what is necessary for one step. They take turns; the medians
are printed. For each kind of process stands how many there were until the first step, what processor time they took, and what
memory each of them had for itself alone: the head of a cluster holds all but the workers once for each training that runs.
facscale's first step is seen where its losses arrive, in the journal of the job: up to a second after the step itself.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent)]

from results import ResultWriter, add_out_option, read_versions  # noqa: E402

from faces import write_face_data_set  # noqa: E402

POLL_S = 0.2
PACKAGES = ("deepspeed", "ray", "torch")  # of the processes that are measured
COLUMNS = {"program": None, "first step, s": 1, "processor time until then, s": 1}
LONGEST_S = 180.0
BARE = """
import sys, time
from pathlib import Path
import ray, torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

def train(settings):
    network = prepare_model(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4), torch.nn.Flatten(), torch.nn.Linear(4 * 29 * 29, 4)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(8, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    if ray.train.get_context().get_world_rank() == 0:
        Path(settings["mark"]).write_text("stepped")
    ray.train.report({})

folder, workers = sys.argv[1:]
ray.init(address="local", num_cpus=int(workers), log_to_driver=False)
scaling = ScalingConfig(num_workers=int(workers), resources_per_worker={"CPU": 1})
settings = {"mark": f"{folder}/mark"}
TorchTrainer(train, train_loop_config=settings, scaling_config=scaling, run_config=RunConfig(storage_path=folder)).fit()
"""
JOB = """
method: {{name: simsiam, depth: 18, width: 4, projection: 8, bottleneck: 4}}
data: {{unlabelled: {folder}/faces, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 1, log_every: 1, probe_every: 0}}
cluster: {{workers: {workers}, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}
evaluate: {{rendered_people: 0}}
"""


@dataclass
class Start:
    """One start: seconds to the first step and to the end; by kind of process what was used until the first step."""

    first_step_s: float
    end_s: float
    processor_s: dict[str, float]
    processes: dict[str, int]
    private_mb: dict[str, float]  # the most of any process of the kind


def watch_start(command: list[str], environment: dict[str, str], has_stepped: Callable[[], bool]) -> Start:
    """Run a command to its end and watch it and its descendants."""
    began = time.monotonic()
    spent: dict[int, ProcessUse] = {}
    first_step_s = None
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        root = psutil.Process(process.pid)
        while process.poll() is None:
            if time.monotonic() - began > LONGEST_S:
                process.send_signal(signal.SIGINT)
            if first_step_s is None:
                measure_processes(root, spent)
                if has_stepped():
                    first_step_s = time.monotonic() - began
            time.sleep(POLL_S)
        if first_step_s is None:
            errors.seek(0)
            raise SystemExit(f"{command}: no step was seen; the command printed\n{errors.read()}")
    processor, memory, counts = defaultdict[str, float](float), defaultdict[str, float](float), Counter[str]()
    for use in spent.values():
        processor[use.kind] += use.seconds
        memory[use.kind] = max(memory[use.kind], use.private_mb)
        counts[use.kind] += 1
    return Start(first_step_s, time.monotonic() - began, dict(processor), dict(counts), dict(memory))


@dataclass
class ProcessUse:
    """What a process has used so far."""

    kind: str
    seconds: float
    private_mb: float


def measure_processes(root: psutil.Process, spent: dict[int, ProcessUse]) -> None:
    """Note what `root` and its descendants have used so far, by process id; those that have ended stay."""
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        try:
            times, memory = process.cpu_times(), process.memory_full_info()
            kind = "driver" if process == root else name_kind(process.cmdline())
        except psutil.Error:
            continue
        spent[process.pid] = ProcessUse(kind, times.user + times.system, memory.uss / 1e6)


def name_kind(command: list[str]) -> str:
    """What a process of Ray is: the name that Ray gives a worker, or that of the program."""
    if not command:
        return "ended"
    first = command[0].split()[0]
    if first.startswith("ray::"):
        return first.partition(".")[0].partition("(")[0]
    if "python" in Path(first).name and len(command) > 1:
        return Path(next((word for word in command[1:] if word.endswith(".py")), command[1])).name
    return Path(first).name


def start_facscale(workers: int) -> Start:
    """`facscale run` of a tiny job."""
    with tempfile.TemporaryDirectory() as folder:
        write_face_data_set(f"{folder}/faces", [12] * 16, row_group_mb=0.2)
        job = Path(folder, "job.yaml")
        job.write_text(JOB.format(folder=folder, workers=workers))
        environment = os.environ | {"HOME": folder, "RAY_ADDRESS": "local"}
        environment.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))

        def has_stepped() -> bool:
            return any("loss/" in path.read_text(errors="replace") for path in Path(folder).rglob("*.jsonl"))

        return watch_start([sys.executable, "-m", "facscale.cli", "run", str(job)], environment, has_stepped)


def start_bare(workers: int) -> Start:
    """The script above."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "bare.py")
        script.write_text(BARE)
        mark = Path(folder, "mark")
        return watch_start([sys.executable, str(script), folder, str(workers)], dict(os.environ), mark.exists)


def add_starts(table: ResultWriter, name: str, starts: list[Start]) -> None:
    """Print and write medians over the rounds."""
    step, end = (statistics.median(getattr(start, key) for start in starts) for key in ("first_step_s", "end_s"))
    total = statistics.median(sum(start.processor_s.values()) for start in starts)
    print(f"{name}: first step after {step:.1f} s, {total:.1f} s of processor time; ended after {end:.1f} s")
    table.add(name, step, total)
    median = sorted(starts, key=lambda start: start.first_step_s)[len(starts) // 2]
    for kind, seconds in sorted(median.processor_s.items(), key=lambda item: -item[1]):
        if seconds >= 0.1:
            print(f"  {kind:36} {median.processes[kind]:3}  {seconds:5.1f} s  {median.private_mb[kind]:6.0f} MB each")


def main() -> None:
    """Take turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    add_out_option(parser)
    options = parser.parse_args()
    starts: dict[str, list[Start]] = {"facscale run": [], "bare Ray Train": []}
    for _ in range(options.rounds):
        starts["facscale run"].append(start_facscale(options.workers))
        starts["bare Ray Train"].append(start_bare(options.workers))
    title = f"The start of a training with {options.workers} workers, medians of {options.rounds} rounds"
    with ResultWriter(options.out, title=title, columns=COLUMNS, versions=read_versions(*PACKAGES)) as table:
        for name, measured in starts.items():
            add_starts(table, name, measured)


if __name__ == "__main__":
    main()
