"""Many small trainings in one job: in processes that they share, beside one run of Ray Train for each.

    python tests/benchmarks/many.py [--trials 24] [--out FILE]

Nine folds of a small network, and a sweep whose trials take 12 steps each, on a Ray of this machine with two CPUs, two
trainings at a time. With Ray Train the folds have one worker each too; the trials have two workers of half a CPU, for those
with one share processes. Seconds are the whole command's; memory is the most that all its processes together had for
themselves alone (USS), sampled four times a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent)]

from results import ResultWriter, add_out_option, read_versions  # noqa: E402
from start import ProcessUse, measure_processes  # noqa: E402

from faces import write_face_data_set  # noqa: E402

POLL_S = 0.25
PACKAGES = ("deepspeed", "ray", "torch")  # of the processes that are measured
COLUMNS = {
    "trainings": None,
    "how": None,
    "number": 0,
    "seconds": 0,
    "seconds each": 1,
    "processor s": 0,
    "memory, GB": 2,
}
FOLDS = """
method: {{name: supervised, depth: 18, width: 4}}
data: {{labelled: {folder}/coded, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 1, log_every: 5, probe_every: 0}}
cluster: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}
evaluate: {{folds: 9, rendered_people: 0, detector: none}}
"""
TRIALS = """
method: {{name: simsiam, depth: 18, width: 4, projection: 8, bottleneck: 4}}
data: {{unlabelled: {folder}/faces, labelled: {folder}/coded, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 1, log_every: 3, checkpoint_every: 12, probe_every: 6, probe_frames: 40}}
cluster: {{workers: {workers}, gpus_per_worker: 0, cpus_per_worker: {cpus}, storage: {folder}/runs}}
evaluate: {{folds: 3, rendered_people: 0, detector: none}}
sweep:
  space: {{train.optimizer.lr: {{low: 0.001, high: 0.1, log: true}}}}
  search: random
  early_stopping: none
  trials: {trials}
"""
RUN = """
import sys
import ray
from facscale.job.run import run_job
from facscale.spec import read_spec
from facscale.sweep import run_sweep
from facscale.train.ray.launch import RayTrainer
from prepared import prepare_job

ray.init(address="local", num_cpus=2, log_to_driver=False)
prepared = prepare_job(read_spec(sys.argv[1]), name="many")
if prepared.main.job.sweep:
    status = run_sweep(prepared)
else:
    status = run_job(prepared, trainer=RayTrainer() if sys.argv[2] == "Ray Train" else None)
sys.exit(status)
"""


def run(spec: str, how: str, folder: Path) -> tuple[float, float, dict[str, float]]:
    """Run a job in a process of its own: seconds, seconds of processor time, and MB at the peak by kind of process."""
    (folder / "job.yaml").write_text(spec)
    environment = os.environ | {
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "platform"), str(HERE.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    environment.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
    began, peak, spent = time.monotonic(), dict[str, float](), dict[int, float]()
    command = [sys.executable, "-c", RUN, str(folder / "job.yaml"), how]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            use = dict[int, ProcessUse]()
            measure_processes(root, use)
            spent |= {pid: item.seconds for pid, item in use.items()}
            now = defaultdict[str, float](float)
            for item in use.values():
                now[item.kind] += item.private_mb
            peak = max(peak, dict(now), key=lambda memory: sum(memory.values()))
            time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"the job failed:\n{(folder / 'output').read_text()}")
    return time.monotonic() - began, sum(spent.values()), peak


def main() -> None:
    """Run all four, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--only", nargs=2, metavar=("KIND", "HOW"), help="one of the four: folds 'Ray Train'")
    add_out_option(parser)
    options = parser.parse_args()
    jobs = [
        ("folds", "shared processes", 9, FOLDS, {}),
        ("folds", "Ray Train", 9, FOLDS, {}),
        ("trials", "shared processes", options.trials, TRIALS, {"workers": 1, "cpus": 1}),
        ("trials", "Ray Train", options.trials, TRIALS, {"workers": 2, "cpus": 0.5}),
    ]
    title = "Many small trainings in one job, two at a time on two cores"
    with ResultWriter(options.out, title=title, columns=COLUMNS, versions=read_versions(*PACKAGES)) as table:
        for kind, how, number, spec, values in jobs:
            if options.only and [kind, how] != options.only:
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_face_data_set(f"{folder}/faces", [12] * 96, row_group_mb=0.2)
                write_face_data_set(f"{folder}/coded", [20] * 18, au=(1, 12), row_group_mb=0.2, name="coded")
                job = spec.format(folder=folder, trials=number, **values)
                seconds, processor, peak = run(job, how, folder)
            cells = (kind, how, number, seconds, seconds / number, processor, sum(peak.values()) / 1e3)
            table.add(*cells)
            print(*(f"{column} {cell}" for column, cell in zip(COLUMNS, cells, strict=True)), sep="; ", flush=True)
            for name, megabytes in sorted(peak.items(), key=lambda item: -item[1]):
                print(f"  {name:40} {megabytes:6.0f} MB")


if __name__ == "__main__":
    main()
