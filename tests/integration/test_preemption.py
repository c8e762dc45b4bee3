"""A node that is announced to be taken away: its training saves a checkpoint before, and goes on elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = pytest.mark.slow("a Ray of three nodes, which another process starts", minutes=2)
TRAINERS = ("PooledTrainer", "RayTrainer")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """By trainer, what came of it; one after another on the nodes of one cluster."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("platform", "tests", "tests/plugins"))
    script = Path(__file__).with_name("preempted.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("preempted")), *TRAINERS],
        check=False,
        env=os.environ | {"PYTHONPATH": paths, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"},
        capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_training_saves_before_its_node_is_taken_away_and_resumes_there(reports, trainer):
    """`cluster.max_failures` is 0: a node that is taken away is no failure."""
    report = reports[trainer]
    (saved,) = report["saved"]
    assert 5 <= saved < 100, "before the end, and none was due"
    assert len(report["lost"]) == 1
    assert report["resumed"][0] >= saved
    assert report["last"] == 100
