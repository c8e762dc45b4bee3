"""Rendered people: equal seeds give equal pixels, AUs move the right landmarks, and the ground truth fits the images."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from facscale.synthetic import AUS, Clip, render_clip
from facscale.synthetic.actions import EMOTIONS
from facscale.synthetic.benchmark_dlib import DlibDetector, measure_clip, summarize
from facscale.synthetic.identity import sample_identity
from facscale.synthetic.motion import sample_motion
from facscale.synthetic.sheet import render_stills

Marks = np.ndarray  # [68, 2]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(identity=4, clip=1, seconds=1.2, size=160, seed=3)


def test_the_same_seed_gives_the_same_pixels_and_any_other_does_not(clip: Clip) -> None:
    again = render_clip(identity=4, clip=1, seconds=1.2, size=160, seed=3)
    np.testing.assert_array_equal(clip.frames, again.frames)
    np.testing.assert_array_equal(clip.landmarks, again.landmarks)
    for arguments in (
        {"identity": 5, "clip": 1, "seed": 3},
        {"identity": 4, "clip": 2, "seed": 3},
        {"identity": 4, "clip": 1, "seed": 4},
    ):
        image = render_clip(**arguments, seconds=0.04, size=160).frames[0]
        assert np.abs(image.astype(int) - clip.frames[0]).mean() > 5


def test_shapes_and_ranges(clip: Clip) -> None:
    assert clip.frames.shape == (30, 160, 160, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.intensities.shape == (30, len(AUS))
    assert clip.intensities.min() >= 0
    assert clip.intensities.max() <= 5
    assert clip.landmarks.shape == (30, 68, 2)
    assert clip.landmarks.min() > 0
    assert clip.landmarks.max() < 160


def _eye_width(m: Marks) -> float:
    return float(np.linalg.norm(m[36] - m[39]))


def _opening(m: Marks) -> float:
    return float((m[40:42, 1] + m[46:48, 1] - m[37:39, 1] - m[43:45, 1]).mean())


# AU -> a length that grows with it, in pixels (y points down).
GROWS: dict[int, Callable[[Marks], float]] = {
    1: lambda m: -m[21, 1] - m[22, 1],  # inner brows rise
    2: lambda m: -m[17, 1] - m[26, 1],  # outer brows rise
    4: lambda m: m[20, 1] + m[23, 1] - (m[22, 0] - m[21, 0]),  # brows come down and together
    6: lambda m: -m[40:42, 1].mean() - m[46:48, 1].mean(),  # lower lids rise
    7: lambda m: -_opening(m),  # the eyes narrow
    9: lambda m: -m[31, 1] - m[35, 1],  # the wings of the nose rise
    10: lambda m: -m[50, 1] - m[52, 1],  # the upper lip rises
    12: lambda m: (m[54, 0] - m[48, 0]) - (m[48, 1] + m[54, 1]),  # corners move out and up
    14: lambda m: m[54, 0] - m[48, 0],  # the mouth is drawn wide
    15: lambda m: m[48, 1] + m[54, 1],  # corners come down
    17: lambda m: -m[57, 1],  # the lower lip is pushed up
    23: lambda m: m[48, 0] - m[54, 0],  # the mouth narrows
    24: lambda m: m[51, 1] - m[57, 1],  # lips are pressed thin
    25: lambda m: m[66, 1] - m[62, 1],  # lips part
    26: lambda m: m[8, 1],  # the chin drops
}


@pytest.fixture(scope="module")
def au_frames() -> tuple[np.ndarray, np.ndarray]:
    """Frames [16, 192, 192, 3] and landmarks: every AU alone at intensity 2, and the face at rest last."""
    return render_stills(
        identity=8, intensities=np.concatenate([2 * np.eye(len(AUS)), np.zeros((1, len(AUS)))]), size=192
    )


@pytest.mark.parametrize("au", AUS)
def test_an_action_unit_moves_landmarks_as_anatomy_says(au_frames: tuple[np.ndarray, np.ndarray], au: int) -> None:
    _, marks = au_frames
    assert GROWS[au](marks[AUS.index(au)]) - GROWS[au](marks[-1]) > 0.5


@pytest.mark.parametrize("au", AUS)
def test_intensity_two_is_visible_in_a_small_crop(au_frames: tuple[np.ndarray, np.ndarray], au: int) -> None:
    frames, _ = au_frames
    before, after = (
        cv2.resize(f[24:168, 24:168], (80, 80), interpolation=cv2.INTER_AREA).astype(float)
        for f in (frames[-1], frames[AUS.index(au)])
    )
    change = cv2.GaussianBlur(np.abs(after - before).mean(-1), (0, 0), 1.5)
    assert change.max() > 8  # grey levels of 255, over an area of several pixels; the camera's noise is below 2


def test_a_blink_closes_the_eyes_and_a_smile_leaves_the_chin(clip: Clip) -> None:
    _, marks = render_stills(identity=2, intensities=np.eye(len(AUS))[[AUS.index(12)]] * 5, size=192)
    rest = render_stills(identity=2, intensities=np.zeros((1, len(AUS))), size=192)[1]
    assert np.abs(marks[0, 8] - rest[0, 8]).max() < 1.0
    blinking = clip._motion.blink.argmax()
    assert clip._motion.blink[blinking] > 0.9
    assert _opening(clip.landmarks[blinking]) < 0.25 * _eye_width(clip.landmarks[blinking])


def _warp(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    y, x = np.indices(displacement.shape[:2]).astype(np.float32)
    return cv2.remap(image, x + displacement[..., 0], y + displacement[..., 1], cv2.INTER_LINEAR)


@pytest.mark.parametrize(("i", "j"), [(0, 12), (25, 3)])
def test_the_flow_takes_frame_j_back_to_frame_i(clip: Clip, i: int, j: int) -> None:
    flow = clip.compute_flow(i, j)
    a, b = clip.frames[i].astype(np.float32), clip.frames[j].astype(np.float32)
    moving = flow.valid & (np.abs(flow.displacement).max(-1) > 0.5)
    assert moving.mean() > 0.1
    warped = np.abs(_warp(b, flow.displacement) - a)[moving].mean()
    assert warped < 0.6 * np.abs(b - a)[moving].mean()


def test_the_flow_moves_the_landmarks(clip: Clip) -> None:
    flow, inner = clip.compute_flow(0, 20), np.r_[17:48]
    at = np.round(clip.landmarks[0, inner]).astype(int)
    moved, truth = flow.displacement[at[:, 1], at[:, 0]], (clip.landmarks[20] - clip.landmarks[0])[inner]
    error = np.linalg.norm(moved - truth, axis=1)
    assert np.median(error) < 0.35
    assert np.median(np.linalg.norm(truth, axis=1)) > 3 * np.median(error)


def test_a_frame_does_not_flow_to_itself(clip: Clip) -> None:
    flow = clip.compute_flow(7, 7)
    assert np.abs(flow.displacement).max() < 1e-3
    assert flow.valid.mean() > 0.97


def test_face_and_head_add_up_to_all_motion(clip: Clip) -> None:
    face, head, both = (clip.compute_flow(0, 20, kind=kind) for kind in ("au", "pose", "all"))
    valid = face.valid & head.valid & both.valid
    left = np.abs(face.displacement + head.displacement - both.displacement)[valid]
    assert left.mean() < 0.15 * np.abs(both.displacement)[valid].mean()
    background = (np.abs(head.displacement).max(-1) == 0) & head.valid
    assert np.abs(face.displacement[background]).max() == 0


@pytest.fixture(scope="module")
def scripts() -> np.ndarray:
    """Intensities [N, 15] of 120 clips of 3 s."""
    return np.concatenate(
        [
            sample_motion(sample_identity(number=n % 20, seed=0), frames=75, fps=25, seed=(0, n % 20, n)).intensities
            for n in range(120)
        ]
    )


@pytest.mark.parametrize("au", AUS)
def test_every_action_unit_is_active_now_and_then(scripts: np.ndarray, au: int) -> None:
    rate = (scripts[:, AUS.index(au)] >= 2).mean()
    assert 0.03 < rate < 0.6


def test_action_units_of_one_expression_come_together(scripts: np.ndarray) -> None:
    active = scripts >= 2

    def lift(a: int, b: int) -> float:
        """How much likelier b is when a is there."""
        i, j = AUS.index(a), AUS.index(b)
        return float(active[active[:, i], j].mean() / active[:, j].mean())

    together = {(a, b) for groups in EMOTIONS.values() for group in groups for a in group for b in group if a < b}
    assert lift(6, 12) > 1.4  # one expression often begins before the last one ends
    assert lift(1, 2) > 1.4
    assert np.mean([lift(a, b) for a, b in together]) > 1.3 * np.mean(
        [lift(9, 12), lift(9, 15), lift(2, 12), lift(12, 15)]
    )


def test_intensities_rise_and_fall_smoothly(scripts: np.ndarray) -> None:
    slow = [AUS.index(au) for au in AUS if au not in (24, 25, 26)]  # speech is quick, and ends a press of the lips
    inside = np.arange(1, len(scripts)) % 75 != 0
    assert (
        np.abs(np.diff(scripts, axis=0))[inside][:, slow].max() < 1.9
    )  # at least 4 frames from 0 to 5, steepest 1.5 * 5 / 4


def test_people_differ_more_than_their_clips() -> None:
    shapes = np.stack([sample_identity(number=n, seed=0).shape for n in range(12)])
    tones = np.stack([sample_identity(number=n, seed=0).skin for n in range(12)])
    assert np.abs(shapes - shapes.mean(0)).max(axis=(1, 2)).min() > 0.04
    assert tones.mean(1).std() > 0.08


def test_dlib_finds_the_faces_and_their_landmarks() -> None:
    detector = DlibDetector()
    frames = [
        f
        for n in range(5)
        for f in measure_clip(
            render_clip(identity=n, clip=3, seconds=0.4, seed=11), number=3, every=2, detector=detector
        )
    ]
    result = summarize(frames, speed=1.0)
    assert len(frames) == 25
    assert result.passed, result.text
