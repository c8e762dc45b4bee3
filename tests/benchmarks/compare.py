"""How long `facscale compare` takes on many judged runs, from its start to its last line.

    python tests/benchmarks/compare.py [--runs 500] [--rounds 3] [--out FILE]

The runs are nested ten to a job, each with F1 of 12 AUs in 3 folds as `evaluate` logs them, and 60 parameters; they lie
in a SQLite file, which is asked by itself and through an MLflow server with one worker. Beside it: the time in which
MLflow's own client fetches the same runs, in this process, without its imports.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "platform")]

import numpy as np  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402

from facscale.evaluate import MethodScores  # noqa: E402
from facscale.track import server  # noqa: E402

AUS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
FOLDS = ("fold0", "fold1", "fold2")
OF_A_JOB = 10


def fill(store: str, *, runs: int) -> None:
    """Judged runs in the experiment bp4d."""
    client, random = MlflowClient(store), np.random.default_rng(0)
    experiment = client.create_experiment("bp4d")
    parent = ""
    for number in range(runs):
        row = f"row{number % OF_A_JOB}"
        name = f"job{number // OF_A_JOB}" if number % OF_A_JOB == 0 else row
        tags = {"row": name, "job": f"job{number // OF_A_JOB}", "method": "clp", "cluster": "bench"}
        if number % OF_A_JOB:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        parent = parent if number % OF_A_JOB else run
        by_fold = random.uniform(0.2, 0.8, (len(FOLDS), len(AUS)))
        values = MethodScores(name, AUS, by_fold, by_fold.mean(axis=0), FOLDS).to_metrics()
        params = [Param(f"train.option{place}", str(place)) for place in range(60)]
        metrics = [Metric(key, value, 0, 0) for key, value in values.items()]
        client.log_batch(run, metrics=metrics, params=params, tags=[RunTag("facscale.key", str(number))])
        client.set_terminated(run)


def seconds(work: Callable[[], object], *, rounds: int) -> float:
    """The median of some rounds."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def compare(uri: str, *, runs: int) -> None:
    """The command, as a user types it."""
    source = str(Path(__file__).parents[2] / "platform")
    command = [sys.executable, "-m", "facscale.cli", "compare", "--data", "bp4d", "--tracker", uri, "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": source})
    shown = sum(f",{fold}," in line for line in done.stdout.splitlines() for fold in FOLDS[:1])
    assert shown == runs, f"{shown} of {runs} runs are in the table"


def main() -> None:
    """Fill, then ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    add_out_option(parser)
    options = parser.parse_args()
    title = f"facscale compare on {options.runs} runs"
    with (
        tempfile.TemporaryDirectory() as name,
        ResultWriter(options.out, title=title, columns={"program": None, "store": None, "s": 2}) as table,
    ):
        folder = Path(name)
        running = server.ensure_server(folder, 0)
        try:
            file = f"sqlite:///{folder / 'mlflow.db'}"
            fill(file, runs=options.runs)
            client = MlflowClient(running.url)
            place = [client.get_experiment_by_name("bp4d").experiment_id]
            for uri, what in ((file, "a SQLite file"), (running.url, "a server with one worker")):
                took = seconds(lambda uri=uri: compare(uri, runs=options.runs), rounds=options.rounds)
                print(f"facscale compare on {options.runs} runs of {what}: {took:.2f} s")
                table.add("`facscale compare`", what, took)
            took = seconds(lambda: client.search_runs(place, max_results=50_000), rounds=options.rounds)
            print(f"MLflow's client fetches them from the server in {took:.2f} s, and shows nothing yet")
            table.add("MLflow's client alone", "a server with one worker", took)
        finally:
            server.stop_server(folder)


if __name__ == "__main__":
    main()
