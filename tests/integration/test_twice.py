"""The same job, or the same training, twice at once: one trains, the other waits for it or is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import ray

from conftest import ROOT
from faces import write_face_data_set
from facscale import methods
from facscale.cluster.claim import ClaimedError, claim
from facscale.compat.ray import is_own_cluster, read_start_times
from facscale.methods import DataFacts
from facscale.spec import Document
from facscale.train.events import StepMetrics
from facscale.train.ray.launch import RayTrainer
from facscale.train.task import TrainingTask

pytestmark = [pytest.mark.slow("drivers of their own on Ray"), pytest.mark.usefixtures("plugins")]

HOLDER = """
import sys
import ray
from facscale.cluster.claim import claim
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
with claim("job-1", description="the first one"):
    print("held", flush=True)
    sys.stdin.read()
"""
OTHER_DRIVER = """
import sys
import ray
from facscale.compat.ray import is_own_cluster, read_start_times
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(is_own_cluster(), *read_start_times())
"""


def test_a_name_is_held_by_one_process_until_it_dies(ray_cluster):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, "-c", HOLDER, ray_cluster]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ClaimedError, match="the first one"), claim("job-1", description="the second one"):
            pytest.fail("two hold it")
        with claim("job-2", description="another name"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    for _ in range(2):  # also right after it was let go
        with claim("job-1", description="the second one"):
            assert ray.get(ray.get_actor("job-1", namespace="facscale").describe.remote()) == "the second one"


def test_a_cluster_tells_when_its_nodes_started_and_who_started_it(ray_cluster):
    assert is_own_cluster()
    (start,) = read_start_times()
    process = psutil.Process().create_time()
    assert process - 1 < start < time.time()
    command = [sys.executable, "-c", OTHER_DRIVER, ray_cluster]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(start)]


def test_the_same_training_twice_at_once_is_trained_once(ray_cluster, tmp_path):
    write_face_data_set(str(tmp_path / "faces"), [12] * 16, row_group_mb=0.2)
    spec = {
        "method": {"name": "tiny-unstable"},
        "data": {"unlabelled": str(tmp_path / "faces"), "image_size": 32, "threads": 1},
        "train": {"batch_size": 8, "epochs": 2, "log_every": 1, "probe_every": 0},
        "cluster": {"gpus_per_worker": 0, "cpus_per_worker": 1, "storage": str(tmp_path / "runs")},
    }
    job, _, config = methods.configure(Document(spec, {}))
    task, events = TrainingTask(job, config, DataFacts()), []
    with ThreadPoolExecutor(2) as pool:
        fits = [pool.submit(RayTrainer().fit, task, name="run", receive=events.append) for _ in range(2)]
        first, second = (fit.result() for fit in fits)
    assert first == second
    assert [event.step for event in events if isinstance(event, StepMetrics)] == [1, 2, 3, 4]
