"""What is reported of workers that fail, and what becomes of workers that cannot reach each other."""

from __future__ import annotations

import logging
import os
import pickle

import pytest
from ray.exceptions import RayActorError, RayTaskError

from facscale.methods import DataFacts
from facscale.spec import Job, SpecError
from facscale.train.events import WorkersLost
from facscale.train.ray.worker_failures import START_TIMEOUT, RetryingTorchConfig, WorkerFailureReporter
from facscale.train.task import TrainingTask


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    monkeypatch.setattr("facscale.train.ray.worker_failures.GRACE_S", 0)


class Sink:
    """Keeps the reasons of lost workers."""

    def __init__(self):
        self.notes = []

    def put(self, event):
        assert isinstance(event, WorkersLost)
        self.notes.append(event.reason)


def make_task(**cluster):
    return TrainingTask(Job(method={"name": "clp"}, cluster=cluster), None, DataFacts(), events=Sink())


def test_it_says_who_failed_why_and_what_the_job_waits_for():
    task = make_task(workers=(2, 8))
    died = RuntimeError("The actor died.\n\tclass_name: RayTrainWorker\n\nits node was terminated: no heartbeat\n")
    WorkerFailureReporter(task).after_exception(None, {3: died, 1: TimeoutError()})
    (note,) = task.events.notes
    assert note.startswith("worker 1: TimeoutError; worker 3: its node was terminated: no heartbeat; resumes")
    assert note.endswith("from the latest checkpoint with 2 or more workers")


def test_an_error_that_no_restart_mends_ends_the_training(monkeypatch):
    """Ray Train takes an error of a callback for final."""
    monkeypatch.setattr(logging.getLogger("ray.train"), "level", logging.WARNING)
    task = make_task(workers=2)
    with pytest.raises(SpecError, match="a wrong key"):
        WorkerFailureReporter(task).after_exception(
            None, {0: RuntimeError("connection lost"), 1: SpecError("a wrong key")}
        )
    assert task.events.notes == []


def test_what_is_polled_again_is_reported_once():
    task = make_task(workers=2)
    reporter = WorkerFailureReporter(task)
    for error in ("one", "one", "another"):
        reporter.after_exception(None, {0: RuntimeError(error)})
    assert [note.split(";")[0] for note in task.events.notes] == ["worker 0: one", "worker 0: another"]


@pytest.mark.parametrize(("workers", "timeout"), [((2, 8), START_TIMEOUT[1]), (2, None)])
def test_the_controllers_process_alone_waits_less_long_for_elastic_workers(workers, timeout, monkeypatch):
    monkeypatch.delenv(START_TIMEOUT[0], raising=False)
    sent = pickle.dumps(WorkerFailureReporter(make_task(workers=workers)))
    assert START_TIMEOUT[0] not in os.environ
    pickle.loads(sent)  # as Ray does in the controller
    assert os.environ.pop(START_TIMEOUT[0], None) == timeout


class Apart:
    """A worker group of Ray Train's, of whose workers none answers."""

    cleared = 0

    def execute_single(self, *words):
        raise RayTaskError("set_up", "the whole trace: timed out", RuntimeError("timed out"))

    def _clear_state(self):
        self.cleared += 1


def make_config(max_failures):
    return RetryingTorchConfig(backend="gloo", task=make_task(max_failures=max_failures))


def test_they_are_let_go_and_the_start_is_one_that_ray_train_tries_again():
    config, group = make_config(-1), Apart()
    backend = config.backend_cls()
    for _ in range(20):
        with pytest.raises(RayActorError):
            backend.on_start(group, config)
    assert group.cleared == 20
    assert "cannot reach each other" in config.task.events.notes[0]
    assert "timed out" in config.task.events.notes[0]


def test_but_no_more_often_than_the_spec_allows():
    config, group = make_config(1), Apart()
    backend = config.backend_cls()
    with pytest.raises(RayActorError):
        backend.on_start(group, config)
    with pytest.raises(RayTaskError, match="timed out"):
        backend.on_start(group, config)
    assert group.cleared == 2
