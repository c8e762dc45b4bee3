"""Trainings with one worker share processes of a real Ray cluster, and come out as everywhere else."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import psutil
import pytest
import ray
import torch
from safetensors.torch import load

from faces import write_face_data_set
from facscale.train.checkpoint import EXPORT
from facscale.train.errors import DivergedError, TrainError
from facscale.train.events import StepMetrics, StepProgress, TrainingResumed, TrainingStarted, WorkersLost
from facscale.train.local import LocalTrainer
from facscale.train.ray.launch import RayTrainer
from facscale.train.ray.pool import PooledTrainer
from tasks import build_task
from waiting import wait_for

pytestmark = [
    pytest.mark.slow("trains in processes of Ray", minutes=3),
    pytest.mark.usefixtures("plugins", "ray_cluster"),
]

CLP = {"name": "clp", "depth": 18, "width": 4, "hidden": 8, "embedding": 8, "length": 3, "queue_size": 32}
SPEC = {
    "train": {"batch_size": 8, "epochs": 4, "log_every": 1, "checkpoint_every": 5, "probe_every": 0},
    "cluster": {"workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 clips an epoch: 5 steps of 8."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    write_face_data_set(str(folder), [12] * 40, row_group_mb=0.2)
    return str(folder)


@pytest.fixture
def make_task(data, tmp_path):
    def make(**changes):
        fixed = {"data": {"unlabelled": data, "image_size": 32, "threads": 1}, "cluster": {"storage": str(tmp_path)}}
        return build_task(SPEC, fixed, {"method": CLP} | changes)

    return make


@pytest.fixture
def trainer():
    pool = PooledTrainer()
    yield pool
    pool.release()


def find_processes():
    """The training processes of this process's Ray."""
    processes = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    actors = [process for process in processes if process.info["cmdline"][0].startswith("ray::TrainingActor")]
    return {process.pid for process in actors if os.getpid() in [parent.pid for parent in process.parents()]}


def assert_equal(first, second):
    first, second = load(first), load(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)


def test_trainings_take_turns_in_one_process_and_equal_those_alone(trainer, make_task):
    task, other, processes, events = make_task(), make_task(seed=1), [], []
    exports = []
    for name, each in {"first": task, "other": other, "again": task}.items():
        exports.append(trainer.fit(each, name=name, receive=events.append).export)
        processes.append(find_processes())
    assert len(processes[0]) == 1
    assert processes[0] == processes[1] == processes[2]
    assert_equal(exports[0], exports[2])
    assert_equal(exports[0], LocalTrainer().fit(task, name="local").export)
    assert not torch.equal(load(exports[0])["queue.keys"], load(exports[1])["queue.keys"])
    steps = [event.step for event in events if isinstance(event, StepMetrics)]
    assert steps == list(range(1, 21)) * 3
    assert ray.available_resources().get("CPU", 0) == 1
    trainer.release()
    wait_for(lambda: ray.available_resources().get("CPU", 0) == 2)


def test_two_at_a_time_have_a_process_each(trainer, make_task):
    with ThreadPoolExecutor(2) as threads:
        fits = [threads.submit(trainer.fit, make_task(seed=seed), name=f"run{seed}") for seed in range(2)]
        assert all(fit.result().export for fit in fits)
    assert len(find_processes()) == 2


def test_a_training_whose_process_is_killed_resumes_from_its_checkpoint(trainer, make_task):
    events = []

    def receive(event):
        events.append(event)
        if isinstance(event, StepProgress) and event.step == 13 and len(killed) == 0:
            killed.append(next(iter(find_processes())))
            os.kill(killed[0], signal.SIGKILL)

    killed = []
    exported = trainer.fit(make_task(), name="killed", receive=receive).export
    assert_equal(exported, LocalTrainer().fit(make_task(), name="undisturbed").export)
    (lost,) = (event for event in events if isinstance(event, WorkersLost))
    assert "resumes from the latest checkpoint" in lost.reason
    (resumed,) = (event for event in events if isinstance(event, TrainingResumed))
    assert resumed.step in {10, 15}


def test_a_process_that_died_between_trainings_is_no_failure_of_the_next(trainer, make_task):
    task = make_task(cluster={"max_failures": 0})
    trainer.fit(task, name="first")
    os.kill(next(iter(find_processes())), signal.SIGKILL)
    wait_for(lambda: not find_processes())
    assert trainer.fit(task, name="second").export


def test_a_process_that_dies_again_and_again_ends_the_training(trainer, make_task):
    def receive(event):
        if isinstance(event, StepProgress) and event.note in {"started", "resumed"}:
            os.kill(next(iter(find_processes())), signal.SIGKILL)

    with pytest.raises(TrainError, match="dies: training failed, also after restarts"):
        trainer.fit(make_task(cluster={"max_failures": 1}), name="dies", receive=receive)


def test_what_no_restart_mends_is_raised_at_once(trainer, make_task):
    events = []
    unstable = make_task(method={"name": "tiny-unstable", "broken": list(range(3, 40))})
    with pytest.raises(DivergedError, match="^broken: .*from step 3 on"):
        trainer.fit(unstable, name="broken", receive=events.append)
    assert not any(isinstance(event, WorkersLost) for event in events)


def test_an_aborted_training_ends_and_gives_back_its_cpu(trainer, make_task):
    aborts = []

    def receive(event):
        if isinstance(event, TrainingStarted):
            aborts.append(event.abort)
        if isinstance(event, StepProgress) and event.step == 3:
            threading.Thread(target=aborts[0]).start()

    with pytest.raises(CancelledError):
        trainer.fit(make_task(train={"epochs": 400}), name="aborted", receive=receive)
    wait_for(lambda: ray.available_resources().get("CPU", 0) == 2)


@pytest.mark.parametrize("order", ["pool first", "Ray Train first"])
def test_each_trainer_continues_what_the_other_has_begun(trainer, make_task, tmp_path, order):
    """A job may be submitted again with another number of workers."""
    one, two = trainer, RayTrainer()
    workers = [1, 2]
    if order == "Ray Train first":
        one, two, workers = two, one, workers[::-1]
    one.fit(make_task(train={"epochs": 1}, cluster={"workers": workers[0]}), name="run")
    trainer.release()
    (tmp_path / "run" / EXPORT).unlink()  # what says that it is finished
    events = []
    two.fit(make_task(train={"epochs": 2}, cluster={"workers": workers[1]}), name="run", receive=events.append)
    assert [event.step for event in events if isinstance(event, StepMetrics)] == list(range(6, 11))
