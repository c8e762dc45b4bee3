"""A training that has no workers for a while says so."""

from __future__ import annotations

import time

from facscale.job import recorder
from facscale.job.recorder import StartReporter
from facscale.train.events import StepMetrics, StepProgress, WorkersLost
from waiting import wait_for


def test_a_line_comes_until_workers_train_and_again_when_they_are_lost(monkeypatch):
    lines = []
    monkeypatch.setattr(recorder, "print_line", lines.append)
    with StartReporter("clp", every_s=0.05) as reporter:
        wait_for(lambda: len(lines) >= 2)
        assert set(lines) == {"clp: waiting for workers to start, 0 s so far"}
        reporter.receive(StepMetrics(0, {}))
        reporter.receive(StepProgress(1, 60, "started"))
        time.sleep(0.2)
        count = len(lines)
        time.sleep(0.3)
        assert len(lines) == count
        reporter.receive(WorkersLost("a node was lost"))
        wait_for(lambda: len(lines) > count)
    time.sleep(0.2)
    count = len(lines)
    time.sleep(0.3)
    assert len(lines) == count
