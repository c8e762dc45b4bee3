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


@pytest.mark.parametrize("trainer", ["PooledTrainer", "RayTrainer"])
def test_a_training_saves_before_its_node_is_taken_away_and_resumes_there(tmp_path, trainer):
    """`cluster.max_failures` is 0: a node that is taken away is no failure."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("platform", "tests"))
    script = Path(__file__).with_name("preempted.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path), trainer],
        check=False,
        env=os.environ | {"PYTHONPATH": paths, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    (saved,) = report["saved"]
    assert 5 <= saved < 1000, "before the end, and none was due"
    assert len(report["lost"]) == 1
    assert report["resumed"][0] >= saved
    assert report["last"] == 1000
