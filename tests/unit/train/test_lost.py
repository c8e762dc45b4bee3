"""What is told of lost workers."""

from __future__ import annotations

import pytest

from facscale.methods import DataFacts
from facscale.spec import Job
from facscale.train.ray.lost import Losses
from facscale.train.task import Task


class Mailbox:
    """Keeps what is sent to it."""

    def __init__(self):
        self.notes = []

    def put(self, kind, record):
        assert kind == "lost"
        self.notes.append(record["note"])


@pytest.fixture
def mailbox(monkeypatch):
    monkeypatch.setattr("facscale.train.ray.lost.GRACE", 0)
    return Mailbox()


def losses(mailbox, workers):
    job = Job(method={"name": "clp"}, cluster={"workers": workers})
    return Losses(Task(job, None, DataFacts(), mailbox=mailbox))


def test_it_says_who_failed_why_and_what_the_job_waits_for(mailbox):
    died = RuntimeError("The actor died.\n\tclass_name: RayTrainWorker\n\nits node was terminated: no heartbeat\n")
    losses(mailbox, (2, 8)).after_exception(None, {3: died, 1: TimeoutError()})
    (note,) = mailbox.notes
    assert note.startswith("worker 1: TimeoutError; worker 3: its node was terminated: no heartbeat; goes on")
    assert note.endswith("from the latest checkpoint with 2 or more workers")


def test_what_is_polled_again_is_told_once(mailbox):
    told = losses(mailbox, 2)
    for error in ("one", "one", "another"):
        told.after_exception(None, {0: RuntimeError(error)})
    assert [note.split(";")[0] for note in mailbox.notes] == ["worker 0: one", "worker 0: another"]
