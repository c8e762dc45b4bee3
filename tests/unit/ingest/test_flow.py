"""Optical flow: TV-L1 against the true flow of rendered faces, and the loss of packing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facscale.data import align
from facscale.data.augment import FLOW_STEP, FLOW_UNKNOWN
from facscale.ingest import flow
from facscale.ingest.crops import crop_faces
from facscale.ingest.detectors import Box
from facscale.ingest.frames import Frame
from facscale.ingest.tracking import TrackedFace
from facscale.spec.pipelines import Crop
from facscale.synthetic import render_clip

SIZE = 96


@pytest.fixture(scope="module")
def pair():
    """Two aligned frames 0.12 s apart, and the true flow between them, where it is known."""
    clip, crop = render_clip(identity=4, clip=1, seconds=1.0, size=224, seed=3), Crop(size=SIZE)
    first = 6
    matrix = align.fit_similarity(align.locate_eyes(clip.landmarks[first]), crop)
    images = [align.warp(clip.frames[n], matrix, SIZE) for n in (first, first + 3)]
    true = clip.compute_flow(first, first + 3)
    here = np.moveaxis(np.indices((SIZE, SIZE))[::-1], 0, -1).reshape(-1, 2).astype(np.float64)
    places = align.transform_points(here, cv2.invertAffineTransform(matrix)).astype(np.float32).reshape(SIZE, SIZE, 2)
    vectors = cv2.remap(true.displacement, places[..., 0], places[..., 1], cv2.INTER_LINEAR) @ matrix[:, :2].T
    known_mask = (true.valid & true.person).astype(np.uint8)
    valid = cv2.remap(known_mask, places[..., 0], places[..., 1], cv2.INTER_NEAREST).astype(bool)
    return images, vectors, valid


def test_tvl1_finds_most_of_the_true_motion(pair):
    (before, after), true, valid = pair
    estimate = flow.compute_tvl1(before, after)
    error = np.linalg.norm(estimate - true, axis=2)[valid].mean()
    still = np.linalg.norm(true, axis=2)[valid].mean()
    assert error < 0.6 * still
    assert np.corrcoef(estimate[valid].ravel(), true[valid].ravel())[0, 1] > 0.75


def test_packed_flow_is_off_by_half_a_step_at_most(pair):
    _, true, _ = pair
    side = SIZE // flow.DOWNSCALE
    stored = flow.pack_flow(true.astype(np.float32))
    assert stored.dtype == np.int8
    means = true.reshape(side, 4, side, 4, 2).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(stored.reshape(2, side, side) * FLOW_STEP - means).max() <= FLOW_STEP / 2 + 1e-3


def test_fast_motion_is_clipped_and_never_unknown():
    stored = flow.pack_flow(np.full((8, 8, 2), -100, np.float32))
    assert (stored == -127).all()
    assert (flow.make_unknown_flow(8) == FLOW_UNKNOWN).all()
    assert flow.make_unknown_flow(8).shape == stored.shape


def test_flow_is_computed_in_the_alignment_of_the_earlier_frame():
    """A head moves 2 pixels a frame. The later frame is aligned as the earlier one, so the flow includes that motion."""
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (160, 220, 3), dtype=np.uint8), (0, 0), 3)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    points = np.full((68, 2), 80.0, np.float32)
    points[36:42, 0], points[42:48, 0] = 60.0, 87.0  # 27 pixels apart: Crop's share of a square of 96
    faces = [
        TrackedFace(
            Frame(n, n / 25, np.roll(picture, 2 * n, axis=1)[:, 20:180].copy()),
            Box(20, 20, 140, 140),
            points + np.array([2 * n, 0]),
            0,
        )
        for n in (0, 1, 2, 3, 4, 6)
    ]
    crops = list(crop_faces(faces, Crop(size=SIZE), flow_to=3))
    assert [face.number for face in crops] == [0, 1, 2, 3, 4, 6]
    unknown = [bool((face.flow == FLOW_UNKNOWN).all()) for face in crops]
    assert unknown == [False, False, True, False, True, True]  # 0 -> 3, 1 -> 4, 3 -> 6
    middle = crops[0].flow.reshape(2, SIZE // 4, SIZE // 4)[:, 8:16, 8:16] * FLOW_STEP
    assert middle[0].mean() == pytest.approx(6.0 * 0.28 * SIZE / 27, abs=0.5)
    assert middle[1].mean() == pytest.approx(0.0, abs=0.3)
    assert all(face.flow is None for face in crop_faces(faces, Crop(size=SIZE)))
