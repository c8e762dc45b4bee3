"""Alignment against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facscale.data import align
from facscale.ingest.detectors import Box
from facscale.spec.pipelines import Crop

CROP = Crop(size=100, eyes_y=0.4, eyes_distance=0.4)
# Eyes 0.4 * 100 apart around the middle column, 0.4 * 100 down; the first pixel's centre is 0, its edge -0.5.
TARGET = np.array([[29.5, 39.5], [69.5, 39.5]])


def test_level_eyes_at_twice_the_wanted_distance():
    matrix = align.fit_similarity(np.array([[100.0, 50.0], [180.0, 50.0]]), CROP)
    # Scale 40 / 80. The midpoint (140, 50) goes to (49.5, 39.5): 49.5 - 70 = -20.5, 39.5 - 25 = 14.5.
    assert matrix == pytest.approx(np.array([[0.5, 0.0, -20.5], [0.0, 0.5, 14.5]]))


def test_eyes_one_above_the_other():
    matrix = align.fit_similarity(np.array([[10.0, 20.0], [10.0, 60.0]]), CROP)
    # The vector (0, 40) becomes (40, 0): a quarter turn, (x, y) -> (y, -x), then (40, -10) + t = (49.5, 39.5).
    assert matrix == pytest.approx(np.array([[0.0, 1.0, 9.5], [-1.0, 0.0, 49.5]]))


@given(
    left=st.tuples(st.floats(0, 500), st.floats(0, 500)),
    angle=st.floats(-3.1, 3.1),
    distance=st.floats(5, 400),
)
def test_any_eyes_land_on_their_places_without_shear(left, angle, distance):
    eyes = np.array([left, np.add(left, [distance * np.cos(angle), distance * np.sin(angle)])])
    matrix = align.fit_similarity(eyes, CROP)
    assert align.transform_points(eyes, matrix) == pytest.approx(TARGET, abs=1e-6)
    linear = matrix[:, :2]
    assert linear @ linear.T == pytest.approx(np.linalg.det(linear) * np.eye(2), abs=1e-9)


@pytest.mark.parametrize("right", [(50.0, 50.0), (51.0, 50.0), (np.nan, 50.0)])
def test_coinciding_eyes_are_not_a_face(right):
    assert align.fit_similarity(np.array([(50.0, 50.0), right]), CROP) is None


def test_eye_centres_are_the_means_of_their_six_points():
    points = np.zeros((68, 2))
    points[36:42, 0] = [0, 2, 4, 6, 4, 2]
    points[42:48, 1] = [6, 6, 6, 0, 0, 0]
    assert align.locate_eyes(points) == pytest.approx(np.array([[3.0, 0.0], [0.0, 3.0]]))


def test_a_box_without_landmarks_fills_the_crop_by_its_longer_side():
    matrix = align.fit_box(Box(10, 20, 30, 60), CROP)  # 20 x 40, centre (20, 40) in pixel edges
    # Scale 100 / 40 = 2.5; edge coordinate 0 (centre -0.5) lies at crop edge 2.5 * -0 = 0.
    assert align.transform_points(np.array([[-0.5, 19.5], [39.5, 59.5]]), matrix) == pytest.approx(
        np.array([[-0.5, -0.5], [99.5, 99.5]])
    )


def test_identity_warp_keeps_every_pixel():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (align.warp(image, np.eye(2, 3), 32) == image).all()


def test_a_whole_shift_copies_pixels_and_continues_the_border():
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    shifted = align.warp(image, np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]]), 16)
    assert (shifted[:, 3:] == image[:, :-3]).all()
    assert (shifted[:, :3] == image[:, :1]).all()


def test_reducing_averages_all_pixels():
    image = np.zeros((64, 64, 3), np.uint8)
    image[::2, ::2] = 255  # one pixel of four: plain interpolation gives 0 or 255, depending on where it looks
    matrix = np.array([[0.25, 0.0, -0.375], [0.0, 0.25, -0.375]])
    assert align.warp(image, matrix, 16).mean() == pytest.approx(255 / 4, abs=1)
    assert align.warp(image, matrix, 16).std() < 2


@pytest.mark.parametrize("margin", [0.25, 0.3, 0.155])
def test_a_margin_surrounds_the_same_face_square(margin):
    """The stored image is larger by the margin on each side, and in its middle lies the crop without a margin."""
    wide = CROP.model_copy(update={"margin": margin})
    assert wide.stored_size == round(100 * (1 + 2 * margin))
    eyes = np.array([[60.0, 80.0], [100.0, 95.0]])
    plain, padded = align.fit_similarity(eyes, CROP), align.fit_similarity(eyes, wide)
    assert padded[:, :2] == pytest.approx(plain[:, :2])
    assert padded[:, 2] - plain[:, 2] == pytest.approx((wide.stored_size - 100) / 2)
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    stored = align.warp(image, padded, wide.stored_size)
    square, matrix = align.cut_face_square(stored, padded, wide)
    assert square.shape == (100, 100, 3)
    assert (square == align.warp(image, matrix, 100)).mean() > 0.99  # OpenCV rounds positions to 1/32 pixel
    assert np.abs(matrix - plain)[:, 2].max() <= 0.5  # half a pixel where the stored side is odd
