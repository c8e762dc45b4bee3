"""Detectors are loaded by name and validate their options; dlib's detects rendered faces."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from facscale import spec
from facscale.ingest import configure, detectors
from facscale.ingest.pipeline import build_recipe

TEXT = """source: {layout: videos, root: /videos}
output: /shards
detector:
  name: NAME
"""


def read_pipeline(tmp_path, name, *lines):
    file = tmp_path / "p.yaml"
    file.write_text(TEXT.replace("NAME", name) + "".join(f"  {line}\n" for line in lines))
    return spec.read_spec(file)


def test_own_detectors_are_named_by_their_modules():
    assert {"dlib", "mediapipe", "none"} <= set(detectors.list_names())
    assert "base" not in detectors.list_names()
    assert detectors.find("none").__name__ == "CentredSquare"


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda file: file.stem)
def test_pipelines_use_weights_that_are_open_for_commerce(file, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "/data")
    pipeline = configure(spec.read_spec(file))
    expected = "none" if file.stem == "crops" else "mediapipe"  # crops that exist already need no detector
    assert build_recipe(pipeline)["detector"]["name"] == expected


@pytest.mark.usefixtures("plugins")
def test_a_detector_of_another_package_is_loaded_by_its_entry_point(tmp_path):
    assert "blob" in detectors.list_names()
    pipeline = configure(read_pipeline(tmp_path, "blob", "threshold: 99"))
    assert detectors.parse_options(pipeline).threshold == 99
    assert detectors.parse_options(pipeline).detect_every_s == 0.2
    with pytest.raises(spec.SpecError, match="is not a facscale Detector"):
        detectors.find("not-a-detector")


def test_an_unknown_detector_names_file_line_and_the_nearest(tmp_path):
    with pytest.raises(spec.SpecError, match=r'p\.yaml:4: there is no detector "dlip" \(did you mean "dlib"\?\)'):
        configure(read_pipeline(tmp_path, "dlip"))


def test_a_wrong_option_names_file_line_and_the_nearest(tmp_path):
    with pytest.raises(
        spec.SpecError, match=r'p\.yaml:5: unknown key "detector\.smalest_face" \(did you mean "smallest_face"\?\)'
    ):
        configure(read_pipeline(tmp_path, "dlib", "smalest_face: 0.5"))
    with pytest.raises(spec.SpecError, match=r'p\.yaml:5: "detector\.detect_every_s"'):
        configure(read_pipeline(tmp_path, "none", "detect_every_s: 2"))
    with pytest.raises(spec.SpecError, match=r'p\.yaml:5: unknown key "detector\.weights"'):
        configure(read_pipeline(tmp_path, "none", "weights: x"))


def test_an_old_option_in_frames_says_which_one_in_seconds_replaces_it(tmp_path):
    for old, new in (("shortest_track", "shortest_track_s"), ("detect_every", "detect_every_s")):
        with pytest.raises(
            spec.SpecError, match=rf"p\.yaml:5: detector\.{old} is now called detector\.{new} .*seconds"
        ):
            configure(read_pipeline(tmp_path, "dlib", f"{old}: 5"))


def test_none_takes_the_largest_centred_square():
    detector = detectors.find("none")(None)
    (box,) = detector.detect(np.zeros((60, 100, 3), np.uint8))
    assert box == (20, 0, 80, 60)
    assert np.isnan(detector.predict_landmarks(np.zeros((60, 100, 3), np.uint8), box)).all()


def test_dlib_rejects_invalid_weights(tmp_path):
    detector_class = detectors.find("dlib")
    (tmp_path / "w.dat").write_bytes(b"nothing")
    with pytest.raises(spec.SpecError, match=r"detector\.weights"):
        detector_class(detector_class.Config(weights=str(tmp_path / "w.dat")))


def test_the_weights_are_located_without_importing_their_package():
    program = (
        "import sys; from facscale.ingest.detectors.dlib import locate_packaged_weights; "
        "print(locate_packaged_weights().stat().st_size, 'face_recognition_models' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    size, imported = done.stdout.split()
    assert int(size) > 10_000_000
    assert imported == "False"


@pytest.fixture(scope="module")
def clip():
    synthetic = pytest.importorskip("facscale.synthetic")
    return synthetic.render_clip(identity=1, clip=0, seed=0, seconds=0.4, fps=25, size=224)


def test_dlib_detects_a_rendered_face_and_its_landmarks_at_any_size(clip):
    import cv2

    detector_class = detectors.find("dlib")
    detector = detector_class(detector_class.Config())
    frame, truth = clip.frames[4], clip.landmarks[4]
    between_eyes = np.linalg.norm(truth[36:42].mean(0) - truth[42:48].mean(0))
    for scale in (1.0, 3.0):
        image = cv2.resize(np.asarray(frame), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        (box,) = detector.detect(image)
        points = (detector.predict_landmarks(image, box) + 0.5) / scale - 0.5
        error = np.linalg.norm(points - truth, axis=1).mean() / between_eyes
        assert error < 0.15


def test_dlib_detects_no_face_in_noise():
    detector_class = detectors.find("dlib")
    assert (
        detector_class(detector_class.Config()).detect(
            np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        )
        == []
    )
