"""A running sweep is followed and recorded, also where its store is slow."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from facscale.spec.sweep import Span, Sweep
from facscale.sweep import watch as module
from facscale.sweep.outcome import TrialOutcome
from facscale.sweep.trial import TrialEvent
from facscale.sweep.watch import SweepWatch

SWEEP = Sweep(space={"method.margin": Span(low=0.0, high=1.0)}, search="random", trials=6)
PATIENCE_S = 30


class SlowStore:
    """Takes records one after the other, each only once it is let through."""

    def __init__(self):
        self.records, self.asked, self.is_open = [], threading.Semaphore(0), threading.Event()

    def write(self, _, outcomes):
        self.asked.release()
        assert self.is_open.wait(PATIENCE_S)
        self.records.append([outcome.trial for outcome in outcomes])


@pytest.fixture
def store(monkeypatch):
    store = SlowStore()
    monkeypatch.setattr(module, "write_record", store.write)
    yield store
    store.is_open.set()


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr(module, "EventDispatcher", lambda _: None)  # the queue of a cluster
    watch = SweepWatch(SimpleNamespace(console=None), SWEEP)
    watch.resume(None, [TrialOutcome("t0", {"method.margin": 0.1}, has_ended=True)])
    watch._folder = object()  # the store above takes all records
    return watch


def begin(watch, name):
    """Begin a trial in a thread of its own."""
    outcome = TrialOutcome(name, {"method.margin": 0.5})
    thread = threading.Thread(target=watch.begin_trial, args=(outcome,), kwargs={"trial_id": name}, daemon=True)
    thread.start()
    return thread


def test_events_of_trials_do_not_wait_for_a_slow_store(watch, store):
    writer = begin(watch, "t1")
    assert store.asked.acquire(timeout=PATIENCE_S)
    event = TrialEvent("t0", {"method.margin": 0.1}, None)  # a late one, of a trial that has ended
    receiver = threading.Thread(target=watch.receive, args=(event,), daemon=True)
    receiver.start()
    receiver.join(PATIENCE_S)
    assert not receiver.is_alive()
    assert store.records == []
    store.is_open.set()
    writer.join(PATIENCE_S)
    assert store.records == [["t0", "t1"]]


def test_an_older_record_never_replaces_a_newer_one(watch, store):
    threads = [begin(watch, f"t{number}") for number in range(1, 20)]
    assert store.asked.acquire(timeout=PATIENCE_S)
    store.is_open.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    sizes = [len(record) for record in store.records]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 20
