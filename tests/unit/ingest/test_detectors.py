"""Detectors are found by name, own their options, and dlib's sees rendered faces."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from facscale import spec
from facscale.ingest import configure, detectors

TEXT = """source: {layout: videos, root: /videos}
output: /shards
detector:
  name: NAME
"""


def written(tmp_path, name, *lines):
    file = tmp_path / "p.yaml"
    file.write_text(TEXT.replace("NAME", name) + "".join(f"  {line}\n" for line in lines))
    return spec.read(file)


def test_ours_are_found_by_module_name():
    assert {"dlib", "none"} <= set(detectors.names())
    assert "base" not in detectors.names()
    assert detectors.find("none").__name__ == "WholeFrame"


@pytest.mark.usefixtures("plugins")
def test_another_packages_detector_comes_through_its_entry_point(tmp_path):
    assert "blob" in detectors.names()
    pipeline = configure(written(tmp_path, "blob", "threshold: 99"))
    assert detectors.options(pipeline).threshold == 99
    assert detectors.options(pipeline).detect_every == 5
    with pytest.raises(spec.SpecError, match="is no facscale Detector"):
        detectors.find("not-a-detector")


def test_an_unknown_detector_names_file_line_and_the_nearest(tmp_path):
    with pytest.raises(spec.SpecError, match=r'p\.yaml:4: there is no detector "dlip" \(did you mean "dlib"\?\)'):
        configure(written(tmp_path, "dlip"))


def test_a_wrong_option_names_file_line_and_the_nearest(tmp_path):
    with pytest.raises(
        spec.SpecError, match=r'p\.yaml:5: unknown key "detector\.smalest_face" \(did you mean "smallest_face"\?\)'
    ):
        configure(written(tmp_path, "dlib", "smalest_face: 0.5"))
    with pytest.raises(spec.SpecError, match=r'p\.yaml:5: "detector\.detect_every"'):
        configure(written(tmp_path, "none", "detect_every: 0"))
    with pytest.raises(spec.SpecError, match=r'p\.yaml:5: unknown key "detector\.weights"'):
        configure(written(tmp_path, "none", "weights: x"))


def test_none_takes_the_largest_centred_square():
    detector = detectors.find("none")(None)
    (box,) = detector.detect(np.zeros((60, 100, 3), np.uint8))
    assert box == (20, 0, 80, 60)
    assert np.isnan(detector.landmarks(np.zeros((60, 100, 3), np.uint8), box)).all()


def test_dlib_refuses_what_is_no_predictor(tmp_path):
    found = detectors.find("dlib")
    (tmp_path / "w.dat").write_bytes(b"nothing")
    with pytest.raises(spec.SpecError, match=r"detector\.weights"):
        found(found.Config(weights=str(tmp_path / "w.dat")))


def test_the_weights_are_found_without_importing_their_package():
    program = (
        "import sys; from facscale.ingest.detectors.dlib import packaged_weights; "
        "print(packaged_weights().stat().st_size, 'face_recognition_models' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    size, imported = done.stdout.split()
    assert int(size) > 10_000_000
    assert imported == "False"


@pytest.fixture(scope="module")
def clip():
    synthetic = pytest.importorskip("facscale.synthetic")
    return synthetic.render_clip(identity=1, clip=0, seed=0, seconds=0.4, fps=25, size=224)


def test_dlib_finds_a_rendered_face_and_its_landmarks_at_any_size(clip):
    import cv2

    found = detectors.find("dlib")
    detector = found(found.Config())
    frame, truth = clip.frames[4], clip.landmarks[4]
    between_eyes = np.linalg.norm(truth[36:42].mean(0) - truth[42:48].mean(0))
    for scale in (1.0, 3.0):
        image = cv2.resize(np.asarray(frame), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        (box,) = detector.detect(image)
        points = (detector.landmarks(image, box) + 0.5) / scale - 0.5
        error = np.linalg.norm(points - truth, axis=1).mean() / between_eyes
        assert error < 0.15


def test_dlib_sees_nobody_in_noise():
    found = detectors.find("dlib")
    assert found(found.Config()).detect(np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)) == []
