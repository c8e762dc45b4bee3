"""What a job needs is imported in a thread while Ray starts: the two never import parts of the same packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow("starts a Ray of its own")

START = """
import json, os, sys
from facscale.cli import jobs
from facscale.compat.ray import import_for_start
from facscale.cluster import ray as cluster

import_for_start()
before = set(sys.modules)
cluster.join()
started = set(sys.modules) - before
for name in started:
    del sys.modules[name]
before = set(sys.modules)
import facscale.job.run, facscale.sweep
print(json.dumps(sorted(started & (set(sys.modules) - before))))
"""


def test_ray_and_a_job_import_different_packages(tmp_path):
    """Python raises an error where two threads import modules of one package that import each other."""
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    both = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in both if "." in name and not name.startswith("ctypes.")], both
