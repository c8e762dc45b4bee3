"""A cluster of several hosts, of which one is cut off in mid-epoch, and comes back."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from conftest import PLUGINS, ROOT
from e2e.bucket_worker import PEOPLE
from hosts import Host, Network, missing
from s3 import S3Server

pytestmark = [
    pytest.mark.nightly("a lost host is given up after minutes"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

BIN = Path(sys.executable).parent
WORKER = ROOT / "tests" / "e2e" / "bucket_worker.py"
JOB = """\
#!/usr/bin/env -S facscale run
# The demo, small, with a method that keeps a list of whose clips its weights were trained on.
extends: demo.yaml
method:
  {name: tiny-census, pace: 0.1, alone: 1, depth: 18, width: 4, hidden: 8, embedding: 8, length: 3, stride: 1, queue_size: 32}
data: {image_size: 32}
train: {batch_size: 8, epochs: 4, log_every: 1, checkpoint_every: 8, probe_every: 0}
evaluate:
  folds: 2
  probe: {epochs: 2, batch_size: 32}
  rendered_people: 0
  pairs: 0
  baselines: {random encoder: null, supervised: null}
"""
EPOCHS, CUT, SPLIT = 4, 27, 50  # of 20 steps each; both come in mid-epoch, some steps after a checkpoint
PATIENCE_S = 300  # for each thing that is waited for; on an idle machine none takes more than 60
WORKERS = ("one", "two")
PORTS = {"ray": 6379, "dashboard": 8265, "agent": 52365, "mlflow": 5000}  # Ray's own choices; each host has all ports
JOIN_FOR_EVER = 'while :; do "$@"; sleep 1; done'  # as a service manager, or a cluster's operator, does it
HEALTH = {  # a silent host is given up after 3 missed checks of 2 s, not after 5 of 10 s
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "0",
}


class Cluster:
    """Ray's head and two workers, S3 and MLflow on a fourth host, and a desk where somebody submits jobs."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        head, store, self.desk = network["head"], network["store"], network["desk"]
        self.s3 = S3Server(folder / "s3", host=store)
        self.s3.start()
        self.variables = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(network.own),
            "TMPDIR": str(network.own),
            "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'tests'}:{PLUGINS}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "TORCH_EXTENSIONS_DIR": os.environ["TORCH_EXTENSIONS_DIR"],
            "RAY_TMPDIR": str(network.own),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": f"http://head:{PORTS['dashboard']}",
            "FACSCALE_DATA": "s3://faces",
            "FACSCALE_RUNS": "s3://faces/runs",
            "MLFLOW_TRACKING_URI": f"http://store:{PORTS['mlflow']}",
            **self.s3.environment,
            **HEALTH,
        }
        self.node_variables = {name: value for name, value in self.variables.items() if name != "RAY_ADDRESS"}
        self.on_desk(sys.executable, WORKER, "make", "s3://faces")
        self.start_tracker(store)
        self.start_head(head)
        for name in WORKERS:
            self.start_worker(network[name])
        until(self.stands, "the cluster")

    def stands(self) -> bool:
        """Whether all hosts have joined, and a job can be submitted: the agent that starts it comes up last."""
        joined = all("Ray runtime started" in read(self.folder / f"{name}.log") for name in ("head", *WORKERS))
        return joined and all(self.answers(PORTS[name]) for name in ("dashboard", "agent"))

    def answers(self, port: int) -> bool:
        """Whether the desk reaches this port of the head."""
        try:
            self.on_desk("bash", "-c", f": </dev/tcp/head/{port}")
        except RuntimeError:
            return False
        return True

    def start_tracker(self, host: Host) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", PORTS["mlflow"]]
        command += ["--workers", 1, "--backend-store-uri", f"sqlite:///{self.network.own / 'mlflow.db'}"]
        command += ["--artifacts-destination", "s3://faces/mlflow", "--allowed-hosts", "store:*"]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        host.start(*command, variables=self.node_variables | quiet, log=self.folder / "mlflow.log")

    def start_head(self, host: Host) -> None:
        ports = ["--port", PORTS["ray"], "--dashboard-port", PORTS["dashboard"], "--dashboard-host", host.address]
        ports += ["--dashboard-agent-listen-port", PORTS["agent"]]
        command = [BIN / "ray", "start", "--head", "--num-cpus", 0, *ports, *self.node(host)]
        host.start(*command, variables=self.node_variables, log=self.folder / "head.log")

    def start_worker(self, host: Host) -> None:
        command = [BIN / "ray", "start", "--address", f"head:{PORTS['ray']}", "--num-cpus", 1, *self.node(host)]
        for_ever = ["sh", "-c", JOIN_FOR_EVER, "join", *command]
        host.start(*for_ever, variables=self.node_variables, log=self.folder / f"{host.name}.log")

    def node(self, host: Host) -> list[object]:
        memory = ["--object-store-memory", 100_000_000]
        return ["--node-ip-address", host.address, *memory, "--disable-usage-stats", "--block"]

    def submit(self, name: str, *overrides: str) -> Submitted:
        """`ray job submit` of the spec from the desk, which has it in a folder of its own."""
        folder = self.desk.folder / "jobs"
        if not folder.exists():
            shutil.copytree(ROOT / "jobs", folder)
            (folder / "hosts.yaml").write_text(JOB)
            (folder / "hosts.yaml").chmod(0o755)
        command = [BIN / "ray", "job", "submit", "--working-dir", self.network.own / "jobs", "--log-style", "record"]
        log = self.folder / f"{name}.log"
        command += ["--", "./hosts.yaml", f"name={name}", *overrides]
        return Submitted(self, name, self.desk.start(*command, variables=self.variables, log=log), log)

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """What the job of this name has left in the bucket."""
        place = self.desk.folder / name
        place.mkdir()
        url = f"s3://faces/runs/{name}-*/method.safetensors"
        self.on_desk(sys.executable, WORKER, "fetch", url, self.network.own / name)
        (file,) = place.iterdir()
        return load(file.read_bytes())

    def on_desk(self, *command: object, timeout: float = 120) -> str:
        return self.desk.run(*command, variables=self.variables, timeout=timeout)


class Submitted:
    """A job on its way, as the desk sees it; its steps are in the journal that it keeps on the head."""

    def __init__(self, cluster: Cluster, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.cluster, self.name, self._process, self._log = cluster, name, process, log

    def points(self) -> list[dict[str, Any]]:
        """Each step's first telling: time, step and values."""
        spools = self.cluster.network["head"].folder / ".cache" / "facscale" / "journal"
        lines = [line for path in spools.glob(f"{self.name}-*/journal.jsonl") for line in path.read_text().splitlines()]
        records = [json.loads(line) for line in lines]
        return [one for one in records if one["do"] == "metrics" and "workers" in one["values"]]

    def step(self) -> int:
        """The last one that was told."""
        return max((point["step"] for point in self.points()), default=0)

    def reaches(self, step: int) -> None:
        self.until(lambda: self.step() >= step, f"step {step}")

    def says(self, text: str) -> None:
        self.until(lambda: text in self.said(), f'"{text}"')

    def said(self) -> str:
        return read(self._log)

    def ends(self) -> None:
        self.until(lambda: self._process.poll() is not None, "its end")
        assert self._process.returncode == 0, self.said()[-5000:]

    def until(self, seen: Callable[[], bool], what: str) -> None:
        """Wait for something of it, and not once it has ended."""
        until(lambda: self._process.poll() is not None or seen(), f"{what} of {self.name}", told=self._log)
        assert seen(), f"{self.name} ended before {what}:\n{self.said()[-5000:]}"


def until(seen: Callable[[], bool], what: str, *, told: Path | None = None) -> None:
    """Wait, but not for ever. `told`: a log, whose end says how it stands."""
    end = time.monotonic() + PATIENCE_S
    while not seen():
        if time.monotonic() > end:
            pytest.fail(f"no {what} in {PATIENCE_S} s\n{read(told)[-5000:] if told else ''}")
        time.sleep(0.2)


def read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Network("head", *WORKERS, "store", "desk") as network:
        yield Cluster(network, tmp_path_factory.mktemp("cluster"))


def epochs(weights):
    """Whose clips the weights were trained on, by epoch."""
    return [sorted(epoch.tolist()) for epoch in weights["order"][: int(weights["count"])].split(PEOPLE)]


EVERYBODY = list(range(PEOPLE))


def test_a_fixed_job_waits_for_its_hosts_and_learns_as_if_nothing_had_been(cluster):
    one, two = (cluster.network[name] for name in WORKERS)
    undisturbed = "evaluate.baselines.undisturbed={train: {keep_checkpoints: 3}}"  # another key, the same training
    job = cluster.submit(
        "fixed", "cluster.workers=2", "cluster.collective_timeout_s=10", "data.labelled=[]", undisturbed
    )
    job.reaches(CUT)
    two.silence()
    job.says("goes on from the latest checkpoint with 2 or more workers")
    stood = job.step()
    time.sleep(5)
    assert job.step() == stood
    two.restore()
    job.says("with 2 workers")
    job.reaches(SPLIT)
    for host, other in ((one, two), (two, one)):  # the head reaches both, so that for Ray all is well
        host.miss(other)
    job.says("they try again")
    for host, other in ((one, two), (two, one)):
        host.find(other)
    job.ends()
    found, expected = cluster.weights("fixed"), cluster.weights("undisturbed")
    assert epochs(found) == [EVERYBODY] * EPOCHS
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=name)


def test_an_elastic_job_goes_on_without_a_host_and_takes_it_back(cluster):
    job = cluster.submit("elastic", "cluster.workers=[1,2]", "cluster.resize_interval_s=10", "train.epochs=6")
    job.reaches(CUT)
    cluster.network["one"].cut()
    job.says("with 1 worker\n")
    job.reaches(job.step() + 1)  # it had got further before
    cluster.network["one"].restore()
    job.says("with 2 workers\n")
    job.ends()
    assert epochs(cluster.weights("elastic")) == [EVERYBODY] * 6
    assert {point["values"]["workers"] for point in job.points()} == {1, 2}
    assert "F1 x 100 on synthetic_bp4d" in job.said()
