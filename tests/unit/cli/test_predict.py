"""`facscale predict` and `facscale.load`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import facscale
from detecting import write_detector
from facscale.cli import main
from plugins.blob_faces import draw_moving_face, write_video

pytestmark = pytest.mark.usefixtures("plugins")


@pytest.fixture
def model(tmp_path):
    return write_detector(tmp_path / "detector.safetensors")


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "talk.mp4", draw_moving_face(12))


def run(*words):
    return CliRunner().invoke(main, ["predict", *map(str, words), "--device", "cpu"])


def test_a_table_for_a_video_and_nothing_twice(tmp_path, model, video):
    out = tmp_path / "out"
    done = run(model, video, "--out", out)
    assert done.exit_code == 0, done.output
    assert "talk.csv: 12 rows" in done.output
    assert len(pd.read_csv(out / "talk.csv")) == 12
    again = run(model, video, "--out", out)
    assert "talk.csv: is there already" in again.output


def test_one_named_file(tmp_path, model, video):
    done = run(model, video, "--out", tmp_path / "aus.parquet", "--columns", "openface", "--every", 3)
    assert done.exit_code == 0, done.output
    assert list(pd.read_parquet(tmp_path / "aus.parquet")["frame"]) == [1, 4, 7, 10]


def test_a_bad_input_beside_a_good_one_is_exit_status_1(tmp_path, model, video):
    (tmp_path / "bad.mp4").write_text("text")
    done = run(model, tmp_path / "bad.mp4", video, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "error: " in done.output
    assert "bad.mp4: cannot be opened as a video" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["talk.csv", "talk.summary.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is no INPUT"),
        (("nowhere.mp4",), "there is no such file or folder"),
        (("{video}", "--camera", "0"), "--camera and INPUT cannot be combined"),
        (("{video}", "{model}", "--out", "a.csv"), "there are 2 tables; name a folder"),
        (("--camera", "nowhere.mp4"), "there is no such camera"),
    ],
)
def test_mistakes_are_refused(model, video, words, message):
    done = run(model, *(word.format(video=video, model=model) for word in words))
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())


def test_a_file_in_place_of_a_camera(tmp_path, model, video):
    done = run(model, "--camera", video, "--out", tmp_path / "live.csv")
    assert done.exit_code == 0, done.output
    assert list(pd.read_csv(tmp_path / "live.csv")["frame"]) == list(range(12))
    assert "AU12" in done.output


def test_python(model, video):
    detector = facscale.load(model, device="cpu")
    table = detector.predict(video)
    assert list(table["frame"]) == list(range(12))
    results = list(detector.stream(draw_moving_face(12)))
    assert [result.number for result in results] == list(range(12))
    assert np.abs([result.faces[0].probability[2] for result in results] - table["AU12"]).max() < 0.05  # the codec


def test_importing_facscale_is_light():
    code = (
        "import facscale, sys; sys.exit(bool({'torch', 'numpy', 'cv2', 'ray', 'mlflow', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
