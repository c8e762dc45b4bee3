"""The smoothing of crops over time, against its formula."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from facscale.data import align
from facscale.ingest.crops import RADIUS, SIGMA_S, crop_faces
from facscale.ingest.detectors import Box
from facscale.ingest.frames import Frame
from facscale.ingest.quality import CropQuality, QualityMeter, measure_outside, measure_sharpness, merge_summaries
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


def test_a_margin_makes_crops_larger_and_leaves_their_quality():
    wide = CROP.model_copy(update={"margin": 0.25})
    for plain, padded in zip(
        *(crop_faces([make_face(n) for n in range(3)], crop) for crop in (CROP, wide)), strict=True
    ):
        assert padded.image.shape == (96, 96, 3)
        assert (padded.image[16:-16, 16:-16] == plain.image).mean() > 0.99
        assert padded.points == pytest.approx(plain.points + 16, abs=1e-3)
        assert padded.quality.outside == pytest.approx(plain.quality.outside)
        assert padded.quality.sharpness == pytest.approx(plain.quality.sharpness, rel=0.01)


def test_coinciding_eyes_give_no_crop():
    face = make_face(3)
    flat = TrackedFace(face.frame, face.box, np.zeros((68, 2)), 0)
    assert list(crop_faces([flat], CROP)) == []


def test_the_share_outside_of_the_picture_is_that_of_the_repeated_edge():
    image = np.zeros((80, 80, 3), np.uint8)
    for box, share in (
        (Box(0, 0, 80, 80), 0),
        (Box(-40, 0, 40, 80), 0.5),
        (Box(40, 40, 120, 120), 0.75),
        (Box(-80, -80, 160, 160), 8 / 9),
        (Box(200, 0, 280, 80), 1),
    ):
        assert measure_outside(image, align.fit_box(box, CROP), 64) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_blurred_crop_is_less_sharp(size):
    image = cv2.resize(make_face(0).frame.image, (size, size))
    sharpness = [measure_sharpness(cv2.GaussianBlur(image, None, sigma * size / 64)) for sigma in (0.5, 1, 2)]
    assert sharpness == sorted(sharpness, reverse=True)
    assert measure_sharpness(np.full((size, size, 3), 90, np.uint8)) == 0


def test_each_crop_has_its_quality():
    (crop,) = crop_faces([replace(make_face(0), disagreement=0.03)], CROP)
    assert crop.quality.disagreement == 0.03
    assert crop.quality.sharpness == measure_sharpness(crop.image)
    assert 0 <= crop.quality.outside < 1


def test_summaries_of_items_merge_to_that_of_all_crops():
    random = np.random.default_rng(0)
    crops = [CropQuality(*row) for row in random.uniform(0, [0.2, 300, 0.5], (50, 3))]
    crops += [CropQuality(float("nan"), 10.0, 0.0)] * 3
    summaries = []
    for part in (crops[:20], crops[20:50], []):
        meter = QualityMeter()
        meter.add(part)
        summaries.append((len(part), vars(meter.summarize())))
    merged, meter = merge_summaries(summaries), QualityMeter()
    meter.add(crops[:50])
    assert vars(merged) == pytest.approx(vars(meter.summarize()), abs=1e-3)
    assert merged.doubtful == sum(crop.disagreement > 0.1 for crop in crops)
    assert merged.cut_off == sum(crop.outside > 0.25 for crop in crops)
    assert merge_summaries([]).sharpness is None
