"""The smoothing of crops over time, against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from facscale.data import align
from facscale.ingest.crops import REACH, SIGMA_S, crops
from facscale.ingest.detectors import Box
from facscale.ingest.frames import Frame
from facscale.ingest.tracking import Sighting
from facscale.spec.pipelines import Crop

CROP = Crop(size=64, eyes_y=0.38, eyes_distance=0.38)


def sighting(number, *, track=0, time_s=None, shift=0.0):
    image = np.random.default_rng(number).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    points = np.random.default_rng(0).uniform(20, 60, (68, 2))
    points[36:42], points[42:48] = (30 + shift, 35), (50 + shift, 36)
    return Sighting(Frame(number, number / 25 if time_s is None else time_s, image), Box(20, 20, 60, 60), points, track)


def test_each_sighting_gives_one_crop_in_order_and_tracks_do_not_mix():
    tracks = [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3]
    seen = [sighting(n, track=track, shift=10.0 * track) for n, track in enumerate(tracks)]
    found = list(crops(seen, CROP))
    assert [(face.number, face.track) for face in found] == list(enumerate(tracks))
    for face in found:  # within a track nothing moves, so smoothing changes nothing: the eyes are where they belong
        expected = np.array([[0.5 - 0.19, 0.38], [0.5 + 0.19, 0.38]]) * 64 - 0.5
        assert align.eyes(face.points) == pytest.approx(expected, abs=1e-3)


def test_smoothing_is_the_gaussian_of_the_docstring():
    shifts = np.random.default_rng(1).normal(0, 2, 9)
    seen = [sighting(n, shift=shift) for n, shift in enumerate(shifts)]
    for n, face in enumerate(crops(seen, CROP)):
        near = range(max(0, n - REACH), min(9, n + REACH + 1))
        weights = np.array([np.exp(-0.5 * ((m - n) / 25 / SIGMA_S) ** 2) for m in near])
        centres = sum(w * align.eyes(seen[m].points) for w, m in zip(weights, near, strict=True)) / weights.sum()
        matrix = align.similarity(centres, CROP)
        assert (face.image == align.warp(seen[n].frame.image, matrix, 64)).all()
        assert face.points == pytest.approx(align.moved(seen[n].points, matrix), abs=1e-3)


def test_frames_far_apart_in_time_do_not_influence_each_other():
    seen = [sighting(n, time_s=float(n), shift=5.0 * (n % 2)) for n in range(6)]
    together = [face.image for face in crops(seen, CROP)]
    alone = [next(iter(crops([one], CROP))).image for one in seen]
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))


def test_unknown_landmarks_crop_the_box_and_stay_unknown():
    one = sighting(3)
    blind = Sighting(one.frame, Box(8, 8, 72, 72), np.full((68, 2), np.nan), 0)
    (face,) = crops([blind], CROP)
    assert (face.image == one.frame.image[8:72, 8:72]).all()
    assert np.isnan(face.points).all()


def test_coinciding_eyes_give_no_crop():
    one = sighting(3)
    flat = Sighting(one.frame, one.box, np.zeros((68, 2)), 0)
    assert list(crops([flat], CROP)) == []
