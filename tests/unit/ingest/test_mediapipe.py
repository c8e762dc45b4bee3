"""MediaPipe's detector on rendered faces, against their truth: turned, tilted, dark, small, several and none."""

from __future__ import annotations

import functools
import shutil

import cv2
import numpy as np
import pytest

from facscale import spec
from facscale.data.align import locate_eyes
from facscale.ingest import detectors
from facscale.ingest.detectors import Box, mediapipe
from facscale.synthetic.actions import AUS
from facscale.synthetic.render import FrameRenderer, get_actor
from facscale.synthetic.sheet import render_stills

PEOPLE = (1, 7, 12)
SIZE = 224


@functools.cache
def make_detector(**options):
    detector_class = detectors.find("mediapipe")
    return detector_class(detector_class.Config(**options))


@functools.cache
def render(identity, *, yaw=0, roll=0):
    pose = (np.deg2rad(yaw), 0, np.deg2rad(roll), 0, 0, 1)
    frames, marks = render_stills(identity=identity, intensities=np.zeros((1, len(AUS))), size=SIZE, pose=pose)
    return frames[0], marks[0]


def measure_error(image, truth, detector):
    """Mean error of the eye centres, in distances between them; there must be this face alone."""
    (box,) = detector.detect(image)
    centres = locate_eyes(truth)
    offsets = locate_eyes(detector.predict_landmarks(image, box)) - centres
    return np.linalg.norm(offsets, axis=1).mean() / np.linalg.norm(centres[1] - centres[0])


def paste(canvas, face, truth, *, x, y, scale):
    """Paste a face into a canvas, with its left top corner at x, y; returns the truth there."""
    small = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
    return (truth + 0.5) * scale - 0.5 + [x, y]


@pytest.mark.parametrize(
    ("pose", "limit"), [({}, 0.08), ({"yaw": 15}, 0.08), ({"yaw": -30}, 0.1), ({"yaw": 45}, 0.18), ({"roll": -45}, 0.1)]
)
def test_eyes_are_located_however_the_head_is_turned(pose, limit):
    errors = [measure_error(*render(person, **pose), make_detector()) for person in PEOPLE]
    assert max(errors) < limit


def test_landmarks_of_a_detected_box_are_those_that_the_detection_located(monkeypatch):
    detector, other = make_detector(), make_detector(min_score=0.6)
    (image, _), (different, _) = render(PEOPLE[0]), render(PEOPLE[1])
    (box,) = detector.detect(image)
    expected = other.predict_landmarks(image, box)
    elsewhere = other.predict_landmarks(different, box)
    passes = []
    run = detector._run_face_mesh
    monkeypatch.setattr(detector, "_run_face_mesh", lambda *given: passes.append(given) or run(*given))
    first = detector.predict_landmarks(image, box)
    assert not passes, "the mesh is not located again"
    assert first == pytest.approx(expected, abs=1e-4)
    first += 100
    assert detector.predict_landmarks(image, box) == pytest.approx(expected, abs=1e-4), "what is handed out is a copy"
    assert detector.predict_landmarks(different, box) == pytest.approx(elsewhere, abs=1e-4)
    assert passes


def test_the_whole_face_is_located_and_does_not_depend_on_the_size_of_the_picture():
    frame, truth = render(1)
    for scale in (1, 3):
        image = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        (box,) = make_detector().detect(image)
        points = (make_detector().predict_landmarks(image, box) + 0.5) / scale - 0.5
        eyes = locate_eyes(truth)
        assert np.linalg.norm(points - truth, axis=1).mean() / np.linalg.norm(eyes[1] - eyes[0]) < 0.12
        assert points.dtype == np.float32


def test_a_face_in_low_light_is_detected():
    random = np.random.default_rng(0)
    for person in PEOPLE:
        frame, truth = render(person)
        dark = np.clip(0.12 * frame + random.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
        assert measure_error(dark, truth, make_detector()) < 0.1


@pytest.mark.parametrize("share", [0.25, 0.12, 0.06])
def test_a_face_of_the_smallest_size_is_detected_anywhere(share):
    detector = make_detector(smallest_face=share)
    for number, person in enumerate(PEOPLE):
        frame, truth = render(person)
        image = np.full((360, 640, 3), (90, 110, 100), np.uint8)
        scale = 1.1 * share * 360 / np.ptp(truth[:, 0])
        x, y = ((640, 360) - np.ceil(SIZE * scale)).astype(int) * number // 2
        assert measure_error(image, paste(image, frame, truth, x=x, y=y, scale=scale), detector) < 0.12


def test_every_face_is_detected_once_whatever_its_size():
    image = np.full((360, 640, 3), (90, 110, 100), np.uint8)
    truths = [
        paste(image, *render(1), x=20, y=10, scale=1.4),
        paste(image, *render(7), x=360, y=40, scale=0.5),
        paste(image, *render(12), x=500, y=200, scale=0.3),
    ]
    boxes = make_detector(smallest_face=0.08).detect(image)
    assert len(boxes) == len(truths)
    for truth in truths:
        assert max(box.compute_iou(Box(*truth.min(0), *truth.max(0))) for box in boxes) > 0.4


def test_a_face_cut_by_the_edge_of_the_picture_is_detected():
    frame, truth = render(7)
    left = int(truth[:, 0].min())
    image = np.ascontiguousarray(frame[:, left + 5 :])
    assert measure_error(image, truth - [left + 5, 0], make_detector()) < 0.12


@pytest.mark.parametrize("smallest_face", [0.25, 0.08])
def test_no_face_is_detected_where_there_is_none(smallest_face):
    detector, random = make_detector(smallest_face=smallest_face), np.random.default_rng(0)
    rooms = [FrameRenderer(get_actor(number=1, seed=0), size=160, seed=(number,)).background for number in range(4)]
    images = [room.reshape(320, 320, 3).astype(np.uint8) for room in rooms]
    images += [random.integers(0, 256, (240, 320, 3), dtype=np.uint8), np.zeros((120, 90, 3), np.uint8)]
    assert [detector.detect(image) for image in images] == [[]] * len(images)


def test_landmarks_far_from_any_face_are_finite():
    points = make_detector().predict_landmarks(np.zeros((60, 80, 3), np.uint8), Box(-500, 30, -500, 30))
    assert points.shape == (68, 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("name", mediapipe.SHA256)
def test_missing_and_damaged_weights_are_named(name, tmp_path, monkeypatch):
    shutil.copytree(mediapipe.WEIGHTS, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(mediapipe, "WEIGHTS", tmp_path)
    detector_class = mediapipe.MediaPipe
    content = bytearray((tmp_path / name).read_bytes())
    content[1000] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(spec.SpecError, match=rf"{name} is damaged: .* install facscale again"):
        detector_class(detector_class.Config())
    (tmp_path / name).unlink()
    with pytest.raises(spec.SpecError, match=rf"{name} cannot be read: .* install facscale again"):
        detector_class(detector_class.Config())
