"""Tracks against an oracle that knows the face in every frame."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facscale.ingest.detectors import Box, Detector, DetectorConfig
from facscale.ingest.frames import Frame
from facscale.ingest.tracking import MAX_TRACK_FRAMES, FaceTracker, TrackedFace, drop_short_tracks


class Oracle(Detector):
    """A "frame" [1, N, 5] holds its faces: left, top, right, bottom, and whether it is visible."""

    calls = 0

    def __init__(self, config):
        pass

    def detect(self, image):
        self.calls += 1
        return [Box(*row[:4]) for row in image[0] if row[4]]

    def predict_landmarks(self, image, box):
        """A grid of 17 x 4 points in the face nearest to the box; in the box itself if there is no face."""
        faces = [Box(*row[:4]) for row in image[0] if row[4]]
        near = max(faces, key=box.compute_iou, default=box)
        box = near if near.compute_iou(box) > 0.1 else box
        x, y = np.meshgrid(np.linspace(box.left, box.right, 17), np.linspace(box.top, box.bottom, 4))
        return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def frame(number, *faces):
    rows = np.array([[*face, 1] for face in faces] or [[0, 0, 1, 1, 0]], np.float64)
    return Frame(number, number / 25, rows[None])


def tracks(frames, *, every=5, step=1, detector=None):
    tracker = FaceTracker(detector or Oracle(None), config=DetectorConfig(detect_every=every), step=step)
    faces = list(tracker.track(frames))
    numbers = [[s.frame.number for s in group] for _, group in groupby(faces, key=lambda s: s.track)]
    return numbers, tracker


FACE = (10.0, 10.0, 50.0, 50.0)


def test_frames_between_two_detections_are_propagated_without_detection():
    detector = Oracle(None)
    numbers, _ = tracks([frame(n, FACE) for n in range(21)], every=5, detector=detector)
    assert numbers == [list(range(21))]
    assert detector.calls == 5  # 0, 5, 10, 15, 20


@settings(max_examples=200, deadline=None)
@given(
    stretches=st.lists(st.integers(5, 14), min_size=1, max_size=6),
    seen_first=st.booleans(),
    every=st.integers(1, 5),
)
def test_tracks_are_exactly_the_stretches_in_which_the_face_is_visible(stretches, seen_first, every):
    present = [
        (index % 2 == 0) == seen_first for index, length in enumerate(stretches) for _ in range(length)
    ]  # absent for at least as long as the tracker does not detect
    frames = [frame(n, FACE) if seen else frame(n) for n, seen in enumerate(present)]
    expected = [[n for n, _ in group] for seen, group in groupby(enumerate(present), key=lambda p: p[1]) if seen]
    numbers, tracker = tracks(frames, every=every)
    assert numbers == expected
    assert tracker.faceless == present.count(False)


def test_a_cut_to_another_place_begins_a_track_at_that_frame():
    elsewhere = (200.0, 100.0, 240.0, 140.0)
    numbers, _ = tracks([frame(n, FACE if n < 7 else elsewhere) for n in range(15)])
    assert numbers == [list(range(7)), list(range(7, 15))]


def test_the_tracked_face_is_kept_when_a_larger_one_appears():
    large = (100.0, 10.0, 200.0, 110.0)
    frames = [frame(n, FACE) if n < 3 else frame(n, large, FACE) for n in range(12)]
    tracker = FaceTracker(Oracle(None), config=DetectorConfig())
    assert {s.box.right < 60 for s in tracker.track(frames)} == {True}
    tracker = FaceTracker(Oracle(None), config=DetectorConfig())
    assert {s.box.right for s in tracker.track(frames[3:])} == {200.0}  # from the start: the largest


def test_a_gap_in_the_numbers_cuts():
    frames = [frame(n, FACE) for n in (*range(4), *range(5, 9))]
    assert tracks(frames)[0] == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert tracks([frame(n, FACE) for n in range(0, 40, 4)], step=4)[0] == [list(range(0, 40, 4))]


def test_a_moving_face_is_tracked():
    frames = [frame(n, (10.0 + 2 * n, 10.0, 50.0 + 2 * n, 50.0)) for n in range(60)]
    numbers, tracker = tracks(frames)
    assert numbers == [list(range(60))]
    assert tracker.detector.calls < 20


def test_tracks_have_a_maximum_length():
    numbers, _ = tracks([frame(n, FACE) for n in range(MAX_TRACK_FRAMES + 3)], every=100)
    assert [len(part) for part in numbers] == [MAX_TRACK_FRAMES, 3]


@given(lengths=st.lists(st.integers(1, 9), max_size=8), shortest=st.integers(1, 6))
def test_short_tracks_are_left_out_and_counted(lengths, shortest):
    sightings = [
        TrackedFace(frame(n), Box(0, 0, 1, 1), np.zeros((68, 2)), track)
        for track, length in enumerate(lengths)
        for n in range(length)
    ]
    dropped = []
    kept = [(s.track, s.frame.number) for s in drop_short_tracks(shortest, sightings, dropped)]
    assert kept == [(s.track, s.frame.number) for s in sightings if lengths[s.track] >= shortest]
    assert dropped == [length for length in lengths if length < shortest]


def test_iou_by_hand():
    box = Box(0, 0, 10, 10)
    assert box.compute_iou(Box(5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert box.compute_iou(Box(10, 0, 20, 10)) == 0
    assert box.compute_iou(Box(-5, -5, -1, -1)) == 0
    assert box.compute_iou(box) == 1
