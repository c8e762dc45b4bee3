"""Which failures of a training are tried again, and how often."""

from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from facscale.methods import DataFacts
from facscale.spec import Job, SpecError
from facscale.train import launch
from facscale.train.worker import Task

DONE = object()
APART = ControllerError(RayTaskError("set_up", "traceback: timed out", RuntimeError("timed out")))


@pytest.fixture
def fit(monkeypatch):
    """Train with the given outcomes of Ray's attempts, one after the other."""

    def run(*outcomes, max_failures=2):
        left = list(outcomes)

        class Trainer:
            def fit(self):
                outcome = left.pop(0)
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

        monkeypatch.setattr(launch, "trainer", lambda *_, **__: Trainer())
        job = Job(method={"name": "clp"}, cluster={"max_failures": max_failures})
        task = Task(job, None, DataFacts())
        assert launch.ended(task, {}, name="run", loop=launch.work, failures=max_failures) is DONE
        assert not left

    return run


def test_workers_that_do_not_meet_try_again(fit):
    fit(APART, APART, DONE)
    fit(*[APART] * 20, DONE, max_failures=-1)


def test_but_no_more_often_than_the_spec_allows(fit):
    with pytest.raises(launch.TrainError, match="run: training failed, also after restarts: (?s:.*)timed out"):
        fit(APART, APART, APART, DONE)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ControllerError(ValueError("no such storage")), launch.TrainError),
        (WorkerGroupError("worker 0", {0: SpecError("batch_size does not divide")}), SpecError),
    ],
)
def test_what_is_no_matter_of_luck_ends_it(fit, error, told):
    with pytest.raises(told):
        fit(error, DONE)
