"""Prediction of many videos: on a Ray cluster, and after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from detecting import make_detector, write_detector
from facscale.inference.batch import Options, plan_tasks, predict_here, predict_on_ray
from facscale.inference.detector import save_detector
from facscale.inference.inputs import list_inputs
from facscale.spec.pipelines import DetectorBlock
from plugins.blob_faces import draw_moving_face, write_video

WHOLE = {"detector": DetectorBlock(name="none")}  # each picture is a face


@pytest.fixture
def videos(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"in/{number}.mp4", draw_moving_face(20 + number))
    return tmp_path / "in"


@pytest.mark.slow("it starts processes on Ray", minutes=0.5)
@pytest.mark.usefixtures("ray_cluster")
def test_workers_on_ray_write_what_one_process_writes(tmp_path, videos):
    model, tasks = save_detector(make_detector(**WHOLE)), plan_tasks(list_inputs([str(videos)])[0])
    here, there = (Options(str(tmp_path / name), device="cpu") for name in ("here", "there"))
    assert all(outcome.is_new for outcome in predict_here(model, tasks, here, is_shown=False))
    outcomes = {outcome.name: outcome for outcome in predict_on_ray(model, tasks, there, workers=2)}
    assert {name: (outcome.rows, outcome.error) for name, outcome in outcomes.items()} == {
        "0": (20, ""), "1": (21, ""), "2": (22, ""),
    }  # fmt: skip
    for name in outcomes:
        assert (tmp_path / f"there/{name}.csv").read_bytes() == (tmp_path / f"here/{name}.csv").read_bytes()
    assert not any(outcome.is_new for outcome in predict_on_ray(model, tasks, there, workers=2))


@pytest.mark.slow("it starts processes and kills one", minutes=0.5)
def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, videos):
    write_video(videos / "long.mp4", draw_moving_face(30) * 40)
    model, out = write_detector(tmp_path / "detector.safetensors", **WHOLE), tmp_path / "out"
    command = [sys.executable, "-m", "facscale.cli", "predict", model, videos, "--out", out, "--device", "cpu"]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not list(out.glob(".long.csv.*")):  # its last table
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {f"{number}.{suffix}" for number in range(3) for suffix in ("csv", "summary.json")}
    before = {name: (out / name).stat().st_mtime_ns for name in names}
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    assert done.stdout.count("is there already") == 3
    assert "long.csv: 1,200 rows" in done.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in names} == before
    assert not list(out.glob(".*"))
