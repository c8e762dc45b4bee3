"""What becomes of workers that do not come together."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError, RayTaskError

from facscale.methods import DataFacts
from facscale.spec import Job
from facscale.train.ray.meeting import Together
from facscale.train.task import Task


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("facscale.train.ray.lost.GRACE", 0)


class Apart:
    """A worker group of Ray Train's, of whose workers none answers."""

    cleared = 0

    def execute_single(self, *words):
        raise RayTaskError("set_up", "the whole trace: timed out", RuntimeError("timed out"))

    def _clear_state(self):
        self.cleared += 1


class Mailbox:
    def __init__(self):
        self.notes = []

    def put(self, kind, record):
        self.notes.append(record["note"])


def together(max_failures):
    job = Job(method={"name": "clp"}, cluster={"max_failures": max_failures})
    return Together(backend="gloo", task=Task(job, None, DataFacts(), mailbox=Mailbox()))


def test_they_are_let_go_and_the_start_is_one_that_ray_train_tries_again():
    config, group = together(-1), Apart()
    backend = config.backend_cls()
    for _ in range(20):
        with pytest.raises(RayActorError):
            backend.on_start(group, config)
    assert group.cleared == 20
    assert "do not come together" in config.task.mailbox.notes[0]
    assert "timed out" in config.task.mailbox.notes[0]


def test_but_no_more_often_than_the_spec_allows():
    config, group = together(1), Apart()
    backend = config.backend_cls()
    with pytest.raises(RayActorError):
        backend.on_start(group, config)
    with pytest.raises(RayTaskError, match="timed out"):
        backend.on_start(group, config)
    assert group.cleared == 2
