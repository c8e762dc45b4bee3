"""The smoothing of crops over time, against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from facscale.data import align
from facscale.ingest.crops import RADIUS, SIGMA_S, crop_faces
from facscale.ingest.detectors import Box
from facscale.ingest.frames import Frame
from facscale.ingest.tracking import TrackedFace
from facscale.spec.pipelines import Crop

CROP = Crop(size=64, eyes_y=0.38, eyes_distance=0.38)


def make_face(number, *, track=0, time_s=None, shift=0.0):
    image = np.random.default_rng(number).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    points = np.random.default_rng(0).uniform(20, 60, (68, 2))
    points[36:42], points[42:48] = (30 + shift, 35), (50 + shift, 36)
    return TrackedFace(
        Frame(number, number / 25 if time_s is None else time_s, image), Box(20, 20, 60, 60), points, track
    )


def test_each_face_gives_one_crop_in_order_and_tracks_do_not_mix():
    tracks = [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3]
    faces = [make_face(n, track=track, shift=10.0 * track) for n, track in enumerate(tracks)]
    crops = list(crop_faces(faces, CROP))
    assert [(face.number, face.track) for face in crops] == list(enumerate(tracks))
    for face in crops:  # within a track nothing moves, so smoothing changes nothing: the eyes are where they belong
        expected = np.array([[0.5 - 0.19, 0.38], [0.5 + 0.19, 0.38]]) * 64 - 0.5
        assert align.locate_eyes(face.points) == pytest.approx(expected, abs=1e-3)


def test_smoothing_is_the_gaussian_of_the_docstring():
    shifts = np.random.default_rng(1).normal(0, 2, 9)
    faces = [make_face(n, shift=shift) for n, shift in enumerate(shifts)]
    for n, face in enumerate(crop_faces(faces, CROP)):
        near = range(max(0, n - RADIUS), min(9, n + RADIUS + 1))
        weights = np.array([np.exp(-0.5 * ((m - n) / 25 / SIGMA_S) ** 2) for m in near])
        centres = (
            sum(w * align.locate_eyes(faces[m].points) for w, m in zip(weights, near, strict=True)) / weights.sum()
        )
        matrix = align.fit_similarity(centres, CROP)
        assert (face.image == align.warp(faces[n].frame.image, matrix, 64)).all()
        assert face.points == pytest.approx(align.transform_points(faces[n].points, matrix), abs=1e-3)


def test_frames_far_apart_in_time_do_not_influence_each_other():
    faces = [make_face(n, time_s=float(n), shift=5.0 * (n % 2)) for n in range(6)]
    together = [face.image for face in crop_faces(faces, CROP)]
    alone = [next(iter(crop_faces([face], CROP))).image for face in faces]
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))


def test_unknown_landmarks_crop_the_box_and_stay_unknown():
    frame = make_face(3).frame
    blind = TrackedFace(frame, Box(8, 8, 72, 72), np.full((68, 2), np.nan), 0)
    (face,) = crop_faces([blind], CROP)
    assert (face.image == frame.image[8:72, 8:72]).all()
    assert np.isnan(face.points).all()


def test_coinciding_eyes_give_no_crop():
    face = make_face(3)
    flat = TrackedFace(face.frame, face.box, np.zeros((68, 2)), 0)
    assert list(crop_faces([flat], CROP)) == []
