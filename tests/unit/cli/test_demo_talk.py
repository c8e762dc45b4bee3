"""The last step of the demo, with an untrained detector."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mlflow import MlflowClient

from detectors import make_detector
from facscale.cli.demo_talk import compute_talk_f1, label_frames, read_talk
from facscale.errors import UserError
from facscale.inference.api import AUDetector
from facscale.inference.predictor import FaceResult, FrameResult
from facscale.ingest.detectors.base import Box
from facscale.synthetic import AUS, render_clip
from facscale.track.query import find_best_model


@pytest.fixture(scope="module")
def detector():
    return AUDetector(make_detector(card={"name": "facscale-synthetic-toy"}), device="cpu")


def test_the_page_shows_the_detectors_words_beside_the_truth(tmp_path, detector):
    page, f1 = read_talk(detector, tmp_path / "talk", seconds=1.0, fps=10, size=160)
    assert {path.name for path in (tmp_path / "talk").iterdir()} == {"talk.mp4", "talk.csv", "talk.html"}
    text = page.read_text()
    result = json.loads(text.split("const result = ")[1].split(";\n")[0])
    clip = render_clip(identity=500_000, clip=0, seconds=1.0, fps=10, size=160)
    for au in (1, 12, 25):
        expected = (clip.intensities[:, AUS.index(au)] >= 2).astype(int).tolist()
        assert result["truth"][f"AU{au:02d}"] == expected
    lines = text.split('id="frames">')[1].split("</script>")[0].strip().splitlines()
    assert [len(json.loads(line)["faces"]) for line in lines] == [1] * 10
    assert np.isnan(f1) or 0 <= f1 <= 1


def test_f1_of_a_talk_by_hand(detector):
    def say(number, probability):
        face = FaceResult(0, 1.0, Box(0, 0, 9, 9), np.zeros(3), np.zeros((68, 2)), np.array(probability), None)
        return FrameResult(number, number / 10, (face,))

    results = [say(0, [0.9, 0.9, 0.0]), FrameResult(1, 0.1, ()), say(2, [0.1, 0.9, 0.0]), say(3, [0.9, 0.0, 0.0])]
    truth = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0]])
    assert compute_talk_f1(results, truth, detector) == pytest.approx((4 / 5 + 1) / 2)  # AU25 is never present


def test_aus_that_are_not_rendered_are_not_labelled():
    labels = label_frames(render_clip(identity=1, clip=0, seconds=0.2, fps=10, size=64), (12, 43, 99))
    assert (labels[:, 2] == -1).all()
    assert set(labels[:, 0]) <= {0, 1}


def test_the_best_detector_is_that_with_the_highest_score(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert find_best_model(uri, prefix="facscale-synthetic") is None
    api = MlflowClient(uri)
    for name, scores in {"facscale-synthetic-clp": [0.4, 0.6], "facscale-synthetic-moco": [0.5], "clp": [0.9]}.items():
        api.create_registered_model(name)
        for score in scores:
            version = api.create_model_version(name, source=str(tmp_path), run_id=None)
            api.set_model_version_tag(name, version.version, "f1/synthetic_bp4d", repr(score))
    best = find_best_model(uri, prefix="facscale-synthetic")
    assert (best.uri, best.score) == ("models:/facscale-synthetic-clp/2", 0.6)


def test_a_demo_without_a_detector_says_so(tmp_path):
    from facscale.cli.demo_talk import show_unseen_talk

    with pytest.raises(UserError, match="did the job of the demo evaluate"):
        show_unseen_talk(tmp_path, tracker=f"sqlite:///{tmp_path}/mlflow.db")
