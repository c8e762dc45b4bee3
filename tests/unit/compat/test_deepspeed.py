"""DeepSpeed's operator is compiled by one process at a time, and one that is killed meanwhile blocks nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from torch.utils import cpp_extension

from facscale.compat.deepspeed import ABANDONED_S, remove_dead_lock, take_turns

COMPILER = """
import sys
from pathlib import Path
from facscale.compat.deepspeed import take_turns
with take_turns(Path(sys.argv[1])):
    print("compiling", flush=True)
    sys.stdin.read()
"""

IMPORTER = """
import importlib.util, sys
from facscale.compat.deepspeed import import_deepspeed
assert callable(import_deepspeed().initialize)
print("mlflow" in sys.modules, importlib.util.find_spec("mlflow") is not None)
"""


def test_deepspeed_does_not_load_mlflow_which_stays_importable():
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTER], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False True"


def test_another_ninja_on_the_path_does_not_compile_the_operator_again(tmp_path):
    """Another version would not know what has been compiled."""
    other = tmp_path / "ninja"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    environment = {
        **os.environ, "DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1",
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    code = "import os; from facscale.compat.deepspeed import compile_operator; compile_operator(); print(os.environ['PATH'])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == environment["PATH"], "it is restored"


def test_a_killed_compiler_frees_the_lock(tmp_path, caplog):
    path = tmp_path / "facscale.lock"
    arguments = [sys.executable, "-c", COMPILER, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "compiling\n"
        with subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as second:
            line = second.stderr.readline()
            assert f"process {first.pid} on " in line
            assert "compiles DeepSpeed's operator: waiting for it (2 s)" in line
            first.kill()
            assert second.stdout.readline() == "compiling\n"
            second.communicate("")
    with take_turns(path):
        assert f"process {os.getpid()} on " in path.read_text()
    assert caplog.text == ""


@pytest.fixture
def old_torch(monkeypatch):
    """Versions before 2.14 take the presence of the file for a lock."""
    monkeypatch.delattr(cpp_extension, "FileLock", raising=False)


def make_lock(folder, *, age):
    path = folder / "lock"
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.usefixtures("old_torch")
def test_a_dead_lock_is_removed_and_one_in_use_is_not(tmp_path):
    fresh = make_lock(tmp_path, age=0)
    remove_dead_lock(fresh)
    assert fresh.exists()
    old = make_lock(tmp_path, age=2 * ABANDONED_S)
    with subprocess.Popen(["cat"], cwd=tmp_path, stdin=subprocess.PIPE) as compiler:
        remove_dead_lock(old)
        assert old.exists()
        compiler.communicate()
    remove_dead_lock(old)
    assert not old.exists()
    remove_dead_lock(old)  # none is there


def test_the_lock_files_of_later_versions_mean_nothing(tmp_path):
    if hasattr(cpp_extension, "FileLock"):
        path = make_lock(tmp_path, age=2 * ABANDONED_S)
        remove_dead_lock(path)
        assert path.exists()
