"""A key has one run under many random orders of events, also when senders die on the way.

The tracker is a stand-in of which every request is one indivisible step, as a database makes it; a scheduler decides
which sender goes next. `integration/test_racing.py` has real processes and a real server.
"""

import random
import threading
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from facscale.track.identity import CLAIM_PARAM, find_run, get_or_create_experiment, get_or_create_run
from facscale.track.view import VIEW_STATE, VIEW_TAG


class Died(BaseException):
    pass


class Tracker:
    """Runs as MLflow keeps them: parameters are written once, deleted runs take nothing and are not found."""

    def __init__(self, turn=lambda: None):
        self.turn, self.runs, self.names = turn, {}, iter(random.Random(0).sample(range(10_000), 10_000))

    def create(self, *, start=0):
        self.turn()
        run = f"{next(self.names):05d}"
        info = SimpleNamespace(run_id=run, start_time=start, lifecycle_stage="active")
        self.runs[run] = SimpleNamespace(info=info, data=SimpleNamespace(params={}, metrics={}))
        return run

    def search_runs(self, experiments, query):
        self.turn()
        return [self._copy(run) for run in self.runs.values() if run.info.lifecycle_stage == "active"]

    def get_run(self, run):
        self.turn()
        return self._copy(self.runs[run])

    def log_param(self, run, name, value):
        self.turn()
        self._active(run).data.params.setdefault(name, value)
        if self.runs[run].data.params[name] != value:
            raise MlflowException("changing is not allowed", INVALID_PARAMETER_VALUE)

    def delete_run(self, run):
        self.turn()
        self._active(run).info.lifecycle_stage = "deleted"

    def _active(self, run):
        if self.runs[run].info.lifecycle_stage != "active":
            raise MlflowException("must be active", INVALID_PARAMETER_VALUE)
        return self.runs[run]

    def _copy(self, run):
        data = SimpleNamespace(params=dict(run.data.params), metrics=dict(run.data.metrics))
        return SimpleNamespace(info=SimpleNamespace(**vars(run.info)), data=data)


class Senders:
    """Threads that take turns, one request each, in an order drawn from `seed`; some die before one of theirs."""

    def __init__(self, count, *, seed, deaths=0):
        self.random = random.Random(seed)
        self.left = {name: self.random.randrange(1, 9) for name in self.random.sample(range(count), deaths)}
        self.tracker, self.found = Tracker(self.turn), {}
        self.changed, self.waiting, self.running, self.next = threading.Condition(), set(), set(range(count)), None
        self.threads = [threading.Thread(target=self.send, args=(name,), name=str(name)) for name in range(count)]

    def turn(self):
        name = int(threading.current_thread().name)
        with self.changed:
            self.waiting.add(name)
            self.pick()
            self.changed.wait_for(lambda: self.next == name)
            self.next = None
            self.left[name] = self.left.get(name, 1_000) - 1
            if self.left[name] == 0:
                raise Died

    def pick(self):
        if self.next is None and self.waiting and self.waiting == self.running:  # everybody has decided what to do next
            self.next = self.random.choice(sorted(self.waiting))
            self.waiting.remove(self.next)
            self.changed.notify_all()

    def send(self, name):
        start = self.random.randrange(2)  # equal for copies of one spool, else whatever clocks say
        try:
            create = lambda: self.tracker.create(start=start)  # noqa: E731
            self.found[name] = get_or_create_run(self.tracker, "0", key="job", create=create)
        except Died:
            pass
        finally:
            with self.changed:
                self.running.remove(name)
                self.pick()

    def run(self):
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join(60)
        self.tracker.turn = lambda: None
        return self


@pytest.mark.parametrize("deaths", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_senders_agree_on_one_run(count, deaths):
    for seed in range(60):
        senders = Senders(count, seed=seed, deaths=min(deaths, count - 1)).run()
        assert len(set(senders.found.values())) == 1, f"seed {seed}: {senders.found}"
        (agreed,) = set(senders.found.values())
        assert find_run(senders.tracker, "0", key="job") == agreed  # whoever comes later, too, and cleans up
        assert [run.info.run_id for run in senders.tracker.search_runs([], "")] == [agreed]


def test_the_earliest_of_several_older_runs_becomes_the_run():
    tracker = Tracker()
    late, early = tracker.create(start=2), tracker.create(start=1)
    tracker.runs[late].data.metrics["loss"] = 1.0
    assert find_run(tracker, "0", key="job") == early
    assert tracker.runs[early].data.params == {CLAIM_PARAM: early}
    assert tracker.runs[late].info.lifecycle_stage == "active"  # it holds data: not ours to delete
    assert find_run(tracker, "0", key="job") == early


def test_a_deleted_run_is_replaced_by_a_new_one():
    tracker = Tracker()
    first = get_or_create_run(tracker, "0", key="job", create=tracker.create)
    assert get_or_create_run(tracker, "0", key="job", create=tracker.create) == first
    tracker.delete_run(first)
    assert find_run(tracker, "0", key="job") is None
    assert get_or_create_run(tracker, "0", key="job", create=tracker.create) != first


def test_an_experiment_of_another_sender_is_used_and_a_deleted_one_restored():
    answers = [None, SimpleNamespace(experiment_id="7", lifecycle_stage="deleted", tags={VIEW_TAG: "an older view"})]
    restored, tagged = [], []

    def create(name, artifact_location, tags):
        raise MlflowException("there is one", error_code=3001)  # RESOURCE_ALREADY_EXISTS

    api = SimpleNamespace(
        get_experiment_by_name=lambda name: answers.pop(0),
        create_experiment=create,
        restore_experiment=restored.append,
        set_experiment_tag=lambda *words: tagged.append(words),
    )
    assert get_or_create_experiment(api, "bp4d", uri="http://127.0.0.1") == "7"
    assert restored == ["7"]
    assert tagged == [("7", VIEW_TAG, VIEW_STATE)]
