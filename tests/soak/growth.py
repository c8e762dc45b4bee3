"""Runs small jobs one after the other on one Ray cluster, and prints what grows from job to job.

    python tests/soak/growth.py --jobs 50             or: make growth JOBS=50
    python tests/soak/growth.py --jobs 50 --minutes 2 # as many of them as fit
    python tests/soak/growth.py --counts build/growth/counts.json --out docs/results/data/growth.json # of a run before

After each job, once the cluster has given everything back: processes, threads, descriptors and memory of the cluster,
entries of /dev/shm and of the temporary folder, living actors, and placement groups that are not removed. The table has
the value after the first job and after the last one, and the slope: the median over all pairs of jobs, so that one busy
moment does not decide it. The first jobs fill caches and start workers that Ray keeps, and are left out of the slope.

Fails where a count grows by more than GROWTH over fifty jobs. Ray keeps the logs of all workers until the cluster ends, and
its servers remember actors and series of metrics up to limits of their own: these files and this memory are listed, and not
judged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from soak import BIN, ROOT, Cluster, Driver, list_descendants

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks"), str(ROOT / "platform")]

from results import ResultWriter, add_out_option, read_versions  # noqa: E402

from faces import write_face_data_set  # noqa: E402

JOB = """\
method: {{name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, stride: 1, queue_size: 32}}
data: {{unlabelled: {folder}/unlabelled, labelled: {folder}/labelled, image_size: 32, threads: 1}}
train: {{batch_size: 8, epochs: 1, log_every: 1, checkpoint_every: 2, probe_every: 0}}
cluster: {{workers: 2, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}
evaluate: {{protocol: linear-probe, folds: 2, probe: {{epochs: 1, batch_size: 32}}, rendered_people: 0, pairs: 0}}
track: {{uri: "sqlite:///{folder}/mlflow.db"}}
"""
INSPECTOR = """
import json, sys
import ray
from ray.util.state import list_actors
ray.init(log_to_driver=False, logging_level="ERROR")
print("ready", flush=True)
for _ in sys.stdin:
    groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=10_000)
    counts = {"actors": len(actors), "placement groups": len(groups), "free CPUs": ray.available_resources().get("CPU", 0)}
    print(json.dumps(counts), flush=True)
"""
CPUS = 2  # of soak.Cluster
WARM_UP = 3  # jobs that the slope leaves out, where there are enough of them
GROWTH = 5.0  # in fifty jobs
IDLE_S = 60.0  # in which the cluster gives back what a job held
NOT_JUDGED = {"log files", "memory, MB"}
Row = tuple[str, float, float, float, float, float]
COLUMNS = {"count": None, "after the first": 0, "after the last": 0, "least": 0, "most": 0, "in 50 jobs": 0}


class Inspector:
    """A driver on the cluster that stays connected, and counts what the cluster holds."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", INSPECTOR], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    def count(self) -> dict[str, float]:
        """Living actors, placement groups that are not removed, and free CPUs."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        counts: dict[str, float] = json.loads(self._read())
        return counts

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the inspector has ended: does the cluster run?")
        return line


def count_all(cluster: Cluster, inspector: Inspector, *, temporary: Path) -> dict[str, float]:
    """What the cluster holds once it is idle. Raises RuntimeError where CPUs stay taken."""
    end = time.monotonic() + IDLE_S
    while inspector.count()["free CPUs"] < CPUS:
        if time.monotonic() > end:
            raise RuntimeError(f"{IDLE_S:.0f} s after the job CPUs are still taken")
        time.sleep(0.5)
    time.sleep(2)  # processes that end need a moment
    counts: dict[str, float] = {**cluster.count_leftovers(), **inspector.count()}
    del counts["free CPUs"]
    counts["temporary files"] = sum(1 for _ in temporary.iterdir())  # of the whole machine's, only these are ours
    counts["memory, MB"] = measure_memory() / 1e6
    counts["log files"] = sum(1 for path in cluster.folder.rglob("*") if path.is_file())
    return counts


def measure_memory() -> float:
    """Bytes that the servers of the cluster, which live as long as it does, have for themselves alone."""
    total = 0.0
    for process in list_descendants(os.getpid()):
        with suppress(psutil.Error):
            if any(name in " ".join(process.cmdline()[:4]) for name in ("gcs_server", "raylet", "dashboard")):
                total += process.memory_full_info().uss
    return total


def compute_slope(values: Sequence[float]) -> float:
    """The growth per job: the median slope over all pairs of jobs."""
    pairs = itertools.combinations(enumerate(values), 2)
    return statistics.median((later - earlier) / (end - start) for (start, earlier), (end, later) in pairs)


def summarise(history: Sequence[dict[str, float]]) -> list[Row]:
    """For each count: after the first job, after the last, the least, the most, and the growth in fifty jobs."""
    rows = []
    for name in history[0]:
        values = [counts[name] for counts in history]
        steady = values[WARM_UP:] if len(values) >= WARM_UP + 4 else values
        growth = 50 * compute_slope(steady) if len(steady) > 1 else 0.0
        rows.append((name, values[0], values[-1], min(values), max(values), growth))
    return rows


def find_growing(rows: Sequence[Row]) -> list[str]:
    """The names of the counts that grow from job to job."""
    return [name for name, *_, growth in rows if growth > GROWTH and name not in NOT_JUDGED]


def build_table(rows: Sequence[Row], *, growing: Sequence[str], title: str) -> Table:
    """The table of all counts; those of `growing` are red."""
    table = Table(title=title, title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "count" else "right")
    for name, *values in rows:
        table.add_row(name, *(f"{value:.0f}" for value in values), style="red" if name in growing else "")
    return table


def run_jobs(folder: Path, *, jobs: int, minutes: float) -> list[dict[str, float]]:
    """Run jobs, `minutes` at most, and count after each. Raises RuntimeError where one fails."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    variables = os.environ | {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "platform"),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions")),
    }
    write_face_data_set(f"{folder}/unlabelled", [12] * 16, row_group_mb=0.2)
    write_face_data_set(f"{folder}/labelled", [20] * 6, au=(1, 12), row_group_mb=0.2, name="labelled")
    (folder / "growth.yaml").write_text(JOB.format(folder=folder))
    cluster, history = Cluster(dict(variables)), list[dict[str, float]]()
    variables["RAY_ADDRESS"] = cluster.address
    began = time.monotonic()
    inspector = None
    try:
        cluster.start()
        inspector = Inspector(variables)
        while len(history) < jobs and time.monotonic() - began < 60 * minutes:
            command = [str(BIN / "facscale"), "run", str(folder / "growth.yaml"), f"name=job-{len(history)}"]
            started = time.monotonic()
            driver = Driver(command, variables=variables, output=folder / "output.log")
            status = driver.wait(600)
            if status != 0:
                driver.kill()
                raise RuntimeError(f"job {len(history)} ended with {status}: see {folder}/output.log")
            history.append(count_all(cluster, inspector, temporary=folder / "tmp"))
            counts = ", ".join(f"{name} {value:.0f}" for name, value in history[-1].items())
            print(f"job {len(history)}, {time.monotonic() - started:.0f} s: {counts}", flush=True)
    finally:
        if inspector:
            inspector.process.kill()
        cluster.stop()
    return history


def main() -> None:
    """Run the jobs, print the table, and exit with 1 where something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no job after so many minutes")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "growth")
    parser.add_argument(
        "--counts", type=Path, metavar="FILE", help="run nothing, and sum up the counts of a run before"
    )
    add_out_option(parser)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is ended
    if options.counts:
        history = json.loads(options.counts.read_text())
    else:
        history = run_jobs(options.folder.absolute(), jobs=options.jobs, minutes=options.minutes)
        (options.folder / "counts.json").write_text(json.dumps(history, indent=1))
    rows = summarise(history)
    growing = find_growing(rows)
    title = f"{len(history)} jobs, one after the other on one Ray cluster: what it holds after each"
    Console(width=110).print(build_table(rows, growing=growing, title=title))
    versions = read_versions("deepspeed", "ray", "torch")
    with ResultWriter(options.out, title=title, columns=COLUMNS, versions=versions, commands=["make growth"]) as table:
        for row in rows:
            table.add(*row)
    sys.exit(f"grows from job to job: {', '.join(growing)}" if growing else 0)


if __name__ == "__main__":
    main()
