"""Trains one small job again and again while something is killed or stopped each time, and compares the results.

    make soak ROUNDS=100          or: python tests/soak/soak.py --rounds 100 --seed 7 --folder build/soak

Here run a head and two nodes of Ray, an S3 server behind a proxy that resets some of its connections, and an MLflow
server. The first round is left alone. In each later one a fault comes at a random moment between the driver's start and
the end of the evaluation, and the job is submitted again until it succeeds, as a RayJob does. A round passes if

- its weights, its losses at each step and its F1 equal the first round's to the last bit (so no sample was lost or
  read twice), and MLflow has each point of each metric once;
- the driver was never silent for more than a minute while it ran.

The log, a JSON object a round, is FOLDER/rounds.jsonl; the last lines of the terminal sum it up. What a failed round
printed stays in FOLDER/output. A process with the same seed has the same faults, though not at the same step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "platform")]

from summary import list_recoveries  # noqa: E402

from faces import write_face_data_set  # noqa: E402
from facscale.progress import parse_bar  # noqa: E402
from facscale.track.server import ServerError, ensure_server, stop_server  # noqa: E402
from ports import free_run  # noqa: E402
from s3 import S3Server  # noqa: E402

BIN = Path(sys.executable).parent
JOB = """\
method: {name: clp, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, stride: 1, queue_size: 32}
data:
  unlabelled: s3://faces/unlabelled
  labelled: s3://faces/labelled
  epoch: {samples_per: track, count: 1}
  image_size: 32
  threads: 1
train: {batch_size: 8, epochs: 12, log_every: 1, checkpoint_every: 4, probe_every: 0}
cluster: {workers: 2, gpus_per_worker: 0, cpus_per_worker: 1, storage: s3://faces/runs}
evaluate: {protocol: linear-probe, folds: 2, probe: {epochs: 2, batch_size: 32}, rendered_people: 0, pairs: 0}
"""
MAX_SILENCE_S = 60.0
MAX_TRIES = 12
START_S = 180.0
ROUND_TIMEOUT_S = 1200.0
RESET_SHARE = 0.02  # of the proxy's transfers
PAUSE_S = (1.0, 20.0)  # how long a process is stopped, or a server is away


@dataclass
class Round:
    """What happened in one round. Times are seconds since the driver's first start."""

    number: int
    fault: str
    fault_at: float | None = None
    recovered_at: float | None = None  # a step beyond the furthest one before the fault, or the end
    seconds: float = 0.0
    tries: int = 0
    silence: float = 0.0  # the longest while that a driver ran without printing
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What a job left behind."""

    weights: bytes
    points: dict[str, list[tuple[int, float]]]  # of each metric of the run, as (step, value)


class ResettingProxy:
    """A TCP proxy on loopback that resets a share of the transfers through it, chosen at random."""

    def __init__(self, port: int, *, share: float, chance: random.Random) -> None:
        self._upstream, self._share, self._chance = port, share, chance
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.resets = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            try:
                upstream = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:  # the server is away
                client.close()
                continue
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self._chance.random() < self._share:
                    self.resets += 1
                    for end in (source, sink):  # a reset, not an orderly end
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Cluster:
    """Ray's head without CPUs and two nodes with one each, as processes of this machine."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables, self._nodes = variables, dict[str, subprocess.Popen[bytes]]()
        self.folder = Path(tempfile.mkdtemp(prefix="soak-"))  # Ray's sockets need a short path
        self._port = free_run(4)  # the dashboard's is followed by those of two helpers
        self.address = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start whatever does not run; all of it again where the head was lost."""
        if not self._runs("head"):
            self.stop()
            options = ["--head", f"--port={self._port}", "--num-cpus=0", f"--temp-dir={self.folder}"]
            self._start("head", *options, f"--dashboard-port={self._port + 1}", "--disable-usage-stats")
        for name in ("node 1", "node 2"):
            if not self._runs(name):
                self._start(name, f"--address={self.address}", "--num-cpus=1")

    def stop(self) -> None:
        """End all of it."""
        for name in list(self._nodes):
            self.kill(name)

    def kill(self, name: str) -> None:
        """Kill a node with everything that it started."""
        process = self._nodes.pop(name)
        for victim in list_descendants(process.pid):
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        process.kill()
        process.wait()

    def list_workers(self) -> list[psutil.Process]:
        """The training's workers."""
        processes = [process for node in self._nodes.values() for process in list_descendants(node.pid)]
        return [process for process in processes if "RayTrainWorker" in read_command(process)]

    def count_leftovers(self) -> dict[str, int]:
        """Processes, threads and open files of the cluster, and its temporary files: they must not grow.

        Without the files of Ray's log monitors, each of which holds up to 200 logs open and then closes them.
        """
        processes = [process for node in self._nodes.values() for process in list_descendants(node.pid)]
        counts = {"processes": 0, "threads": 0, "descriptors": 0}
        for process in processes:
            with suppress(psutil.Error):
                threads = process.num_threads()
                descriptors = 0 if "log_monitor.py" in read_command(process) else process.num_fds()
                counts["processes"] += 1
                counts["threads"] += threads
                counts["descriptors"] += descriptors
        counts["shared memory"] = len(list(Path("/dev/shm").iterdir()))
        counts["temporary files"] = sum(1 for _ in Path(tempfile.gettempdir()).iterdir())
        return counts

    def _start(self, name: str, *options: str) -> None:
        command = [str(BIN / "ray"), "start", "--block", "--node-ip-address=127.0.0.1", *options]
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            self._nodes[name] = subprocess.Popen(
                command, env=self._variables, stdout=out, stderr=out, start_new_session=True
            )
        end = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text():
            if time.monotonic() > end or not self._runs(name):
                raise RuntimeError(f"{name} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)

    def _runs(self, name: str) -> bool:
        return name in self._nodes and self._nodes[name].poll() is None


class Driver:
    """A process of `facscale run`, whose output is read while it runs."""

    def __init__(self, command: list[str], *, variables: dict[str, str], output: Path) -> None:
        self._output, self._began = output.open("ab"), time.monotonic()
        self.process = subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.step, self.silence, self._last = 0, 0.0, time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            now = time.monotonic()
            self.silence, self._last = max(self.silence, now - self._last), now
            self._output.write(f"{now - self._began:6.1f} ".encode() + line)
            if bar := parse_bar(line.decode(errors="replace")):
                self.step = max(self.step, bar.done)
        self._output.flush()

    def wait(self, timeout: float) -> int | None:
        """The exit status; None if it still runs after `timeout` seconds."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(10)
        self.silence = max(self.silence, time.monotonic() - self._last)
        return status

    def kill(self) -> None:
        """End it and what it started at once."""
        for victim in [*list_descendants(self.process.pid), self.process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                victim.kill()


class Soak:
    """Servers, a cluster and a job, and the rounds."""

    def __init__(self, folder: Path, *, seed: int, kinds: Sequence[str] = ()) -> None:
        """`kinds` of faults; without any, all."""
        self.folder, self.seed, self.kinds = folder, seed, tuple(kinds)
        self.servers = folder / "servers"
        for name in (self.servers, folder / "home", folder / "output"):
            shutil.rmtree(name, ignore_errors=True)
            name.mkdir(parents=True)
        self.s3 = S3Server(self.servers / "s3")
        self.s3.start()
        self.proxy = ResettingProxy(self.s3.port, share=RESET_SHARE, chance=random.Random(seed))
        self.mlflow = ensure_server(self.servers / "mlflow", free_run(1))
        self.variables = os.environ | self.s3.environment | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "MLFLOW_TRACKING_URI": self.mlflow.url,
            "HOME": str(folder / "home"),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "platform"),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
            "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions")),
        }  # fmt: skip
        with set_environment(self.s3.environment):
            bucket = self.s3.make_bucket("faces")
            write_face_data_set(f"{bucket}/unlabelled", [12] * 32, row_group_mb=0.2)
            write_face_data_set(f"{bucket}/labelled", [20] * 6, au=(1, 12), row_group_mb=0.2, name="labelled")
        (folder / "soak.yaml").write_text(JOB)
        self.cluster = Cluster(dict(self.variables))
        self.variables["RAY_ADDRESS"] = self.cluster.address
        self.reference: Outcome | None = None
        self.reference_s = 0.0
        self._driver: Driver | None = None  # the latest
        self._restart: threading.Timer | None = None  # of the tracker

    def close(self) -> None:
        """End all processes."""
        if self._driver:
            self._driver.kill()
        self.cluster.stop()
        stop_server(self.servers / "mlflow")
        self.s3.kill()

    def run_round(self, number: int) -> Round:
        """Run the job to its end, with a fault on the way except in round 0."""
        chance = random.Random(f"{self.seed} {number}")
        faults: dict[str, Callable[[Driver, random.Random], None]] = {
            "worker killed": self._kill_worker,
            "worker stopped": self._stop_worker,
            "driver killed": lambda driver, _: driver.kill(),
            "driver stopped": lambda driver, chance: pause(driver.process.pid, chance),
            "node killed": self._kill_node,
            "head killed": lambda *_: self.cluster.kill("head"),
            "store away": self._take_store_away,
            "tracker away": self._take_tracker_away,
        }
        fault = chance.choice(self.kinds or list(faults)) if number else ""
        record, output = Round(number, fault), self.folder / "output" / f"{number:04d}.log"
        due = chance.uniform(0, self.reference_s) if number else None
        began, step_before = time.monotonic(), 0
        while record.tries < MAX_TRIES:
            self.cluster.start()
            record.tries += 1
            driver = self._driver = self._start_driver(number, output)
            status = None
            while status is None and time.monotonic() - began < ROUND_TIMEOUT_S:
                status = driver.wait(0.1)
                elapsed = time.monotonic() - began
                if due is not None and elapsed >= due and record.fault_at is None and status is None:
                    record.fault_at, step_before = elapsed, driver.step
                    faults[fault](driver, chance)
                if record.fault_at is not None and record.recovered_at is None and driver.step > step_before:
                    record.recovered_at = time.monotonic() - began
            record.silence = max(record.silence, driver.silence)
            if status is None:
                record.problems.append(f"did not end within {ROUND_TIMEOUT_S:.0f} s")
                driver.kill()
                break
            if status == 0:
                break
            time.sleep(2)
        else:
            record.problems.append(f"failed {MAX_TRIES} times")
        record.seconds = time.monotonic() - began
        if record.fault_at is not None and record.recovered_at is None:
            record.recovered_at = record.seconds
        if record.silence > MAX_SILENCE_S:
            record.problems.append(f"was silent for {record.silence:.0f} s")
        if not any("end" in problem or "failed" in problem for problem in record.problems):
            record.problems += self._compare(number)
        if not record.problems:
            output.unlink(missing_ok=True)
        return record

    def _start_driver(self, number: int, output: Path) -> Driver:
        command = [str(BIN / "facscale"), "run", str(self.folder / "soak.yaml"), f"name=round-{number}"]
        return Driver(command, variables=self.variables, output=output)

    def _compare(self, number: int) -> list[str]:
        """List in what this round's outcome differs from the first one's."""
        if self._restart:
            self._restart.join()
            sync = [str(BIN / "facscale"), "sync"]  # as a job asks for whose tracker was away at its end
            subprocess.run(sync, env=self.variables, check=True, stdout=subprocess.DEVNULL)
            self._restart = None
        outcome = self._read_outcome(f"round-{number}")
        problems = [
            f"{name} has step {step} {count} times"
            for name, points in outcome.points.items()
            for step, count in count_steps(points).items()
            if count > 1
        ]
        if self.reference is None:
            self.reference = outcome
            return problems
        if outcome.weights != self.reference.weights:
            problems.append("its weights differ")
        compared = [name for name in self.reference.points if name.startswith(("loss", "f1/", "fold"))]
        problems += [f"{name} differs" for name in compared if outcome.points.get(name) != self.reference.points[name]]
        return problems

    def _read_outcome(self, name: str) -> Outcome:
        import pyarrow.fs as pafs
        from safetensors.torch import load, save

        filesystem = self.s3.filesystem()
        files = filesystem.get_file_info(pafs.FileSelector("faces/runs", recursive=True))
        is_export = re.compile(rf"faces/runs/{name}-[^/]+/method\.safetensors").fullmatch  # not a checkpoint's
        (file,) = [file.path for file in files if is_export(file.path)]
        with filesystem.open_input_file(file) as source:
            weights = save(load(source.read()))
        client = MlflowClient(self.mlflow.url)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.row = '{name}'")
        points = {
            metric: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]
            for metric in run.data.metrics
        }
        return Outcome(weights, {metric: sorted(history) for metric, history in points.items()})

    def _kill_worker(self, _: Driver, chance: random.Random) -> None:
        if workers := self.cluster.list_workers():
            with suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()

    def _stop_worker(self, _: Driver, chance: random.Random) -> None:
        if workers := self.cluster.list_workers():
            pause(chance.choice(workers).pid, chance)

    def _kill_node(self, _: Driver, chance: random.Random) -> None:
        self.cluster.kill(chance.choice(["node 1", "node 2"]))
        threading.Timer(chance.uniform(*PAUSE_S), self.cluster.start).start()

    def _take_store_away(self, _: Driver, chance: random.Random) -> None:
        self.s3.kill()
        threading.Timer(chance.uniform(*PAUSE_S), self.s3.start).start()

    def _take_tracker_away(self, _: Driver, chance: random.Random) -> None:
        port = int(self.mlflow.url.rpartition(":")[2])
        stop_server(self.servers / "mlflow", wait=0)
        self._restart = threading.Timer(chance.uniform(*PAUSE_S), self._start_tracker, (port,))
        self._restart.start()

    def _start_tracker(self, port: int) -> None:
        """Start the tracker again, as soon as the one before has given its port back."""
        end = time.monotonic() + START_S
        while True:
            try:
                ensure_server(self.servers / "mlflow", port)
                break
            except ServerError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)


def pause(pid: int, chance: random.Random) -> None:
    """Stop a process, and let it go on after a while."""

    def go_on() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    threading.Timer(chance.uniform(*PAUSE_S), go_on).start()


def list_descendants(pid: int) -> list[psutil.Process]:
    """All processes below one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def read_command(process: psutil.Process) -> str:
    """The command line of a process; "" if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def count_steps(points: list[tuple[int, float]]) -> dict[int, int]:
    """How many points each step has."""
    counts: dict[int, int] = {}
    for step, _ in points:
        counts[step] = counts.get(step, 0) + 1
    return counts


@contextmanager
def set_environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process for a while."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def summarise(rounds: list[Round], leftovers: list[dict[str, int]], *, resets: int) -> str:
    """The last lines of the terminal."""
    faulty = [record for record in rounds if record.fault_at is not None]
    recovery = list_recoveries([asdict(record) for record in rounds])
    failed = [record for record in rounds if record.problems]
    lines = [f"{len(rounds)} rounds, {len(faulty)} faults, {resets} connections reset: {len(failed)} rounds failed"]
    if recovery:
        lines.append(f"back after a fault: median {statistics.median(recovery):.0f} s, worst {max(recovery):.0f} s")
    lines.append(f"longest silence of a driver: {max(record.silence for record in rounds):.0f} s")
    lines += [f"  round {record.number}, {record.fault}: {'; '.join(record.problems)}" for record in failed]
    if len(leftovers) > 1:
        growth = ", ".join(f"{name} {leftovers[0][name]} -> {count}" for name, count in leftovers[-1].items())
        lines.append(f"from the first round to the last: {growth}")
    return "\n".join(lines)


def main() -> None:
    """Run the rounds; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "soak")
    parser.add_argument("--faults", nargs="+", metavar="KIND", default=[], help="such as 'node killed'; by default all")
    parser.add_argument("--first", type=int, default=1, help="the number of the first round with a fault, to continue")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is ended
    soak = Soak(options.folder.absolute(), seed=options.seed, kinds=options.faults)
    rounds, leftovers = list[Round](), list[dict[str, int]]()
    try:
        with (options.folder / "rounds.jsonl").open("a") as log:
            for number in (0, *range(options.first, options.first + options.rounds)):
                record = soak.run_round(number)
                if record.fault_at is None:  # the first one fills caches, and is slower
                    soak.reference_s = min(soak.reference_s or record.seconds, record.seconds)
                rounds.append(record)
                leftovers.append(soak.cluster.count_leftovers())
                log.write(json.dumps(asdict(record) | {"leftovers": leftovers[-1]}) + "\n")
                log.flush()
                fault = f"{record.fault} at {record.fault_at:.0f} s" if record.fault_at is not None else "no fault"
                verdict = "; ".join(record.problems) or "equal"
                print(f"round {number}: {fault}, {record.tries} tries, {record.seconds:.0f} s: {verdict}", flush=True)
                if number == 0 and record.problems:
                    sys.exit(f"the round without a fault failed: see {options.folder}/output")
    finally:
        soak.close()
    print(summarise(rounds, leftovers, resets=soak.proxy.resets))
    sys.exit(any(record.problems for record in rounds))


if __name__ == "__main__":
    main()
