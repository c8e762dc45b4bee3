"""Tracks against an oracle that knows the face in every frame."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_faces import Oracle, frame
from facscale.ingest.detectors import Box, DetectorConfig
from facscale.ingest.frames import Frame
from facscale.ingest.tracking import MAX_TRACK_FRAMES, FaceTracker, TrackedFace, drop_short_tracks


def tracks(frames, *, every_s=0.2, step=1, detector=None):
    tracker = FaceTracker(detector or Oracle(), config=DetectorConfig(detect_every_s=every_s), step=step)
    faces = list(tracker.track(frames))
    numbers = [[s.frame.number for s in group] for _, group in groupby(faces, key=lambda s: s.track)]
    return numbers, tracker


FACE = (10.0, 10.0, 50.0, 50.0)


def test_frames_between_two_detections_are_propagated_without_detection():
    detector = Oracle()
    numbers, _ = tracks([frame(n, FACE) for n in range(21)], detector=detector)
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
    numbers, tracker = tracks(frames, every_s=every / 25)
    assert numbers == expected
    assert tracker.faceless == present.count(False)


def test_a_cut_to_another_place_begins_a_track_at_that_frame():
    elsewhere = (200.0, 100.0, 240.0, 140.0)
    numbers, _ = tracks([frame(n, FACE if n < 7 else elsewhere) for n in range(15)])
    assert numbers == [list(range(7)), list(range(7, 15))]


class Dragging(Oracle):
    """Its landmarks come only halfway from the given box to the face, so that followed ones lag behind."""

    def predict_landmarks(self, image, box):
        grid = super().predict_landmarks(image, box)
        return ((grid + super().predict_landmarks(np.zeros((1, 0, 5)), box)) / 2).astype(np.float32)


@pytest.mark.parametrize("speed", [0.0, 0.2, 2.0, 4.0])
def test_landmarks_that_lag_behind_are_replaced_by_detected_ones(speed):
    detector = Dragging()
    frames = [frame(n, (10 + speed * n, 10.0, 50 + speed * n, 50.0)) for n in range(41)]
    faces = list(FaceTracker(detector, config=DetectorConfig()).track(frames))
    assert [face.frame.number for face in faces] == list(range(41))
    for face in faces:
        (truth,) = detector.detect(face.frame.image)
        error = detector.predict_landmarks(face.frame.image, truth) - face.points
        assert np.abs(error).max() < 0.1 * 15  # the eyes are 15 pixels apart
    assert detector.calls - 41 == 9 if speed < 1 else detector.calls - 41 > 30


class Counting(Oracle):
    """Counts the fits of landmarks, and places those of detected boxes a little to the right."""

    fits = 0

    def __init__(self, shift):
        self.shift, self.boxes = shift, []

    def detect(self, image):
        self.boxes = super().detect(image)
        return self.boxes

    def predict_landmarks(self, image, box):
        self.fits += 1
        points = super().predict_landmarks(image, box)
        return points + np.float32([self.shift, 0]) if box in self.boxes else points


@pytest.mark.parametrize(("shift", "fits_for_each"), [(0.2, 1), (1.2, 2)])  # pixels; the eyes are 15 apart
def test_faces_are_followed_backwards_only_where_the_detector_disagrees(shift, fits_for_each):
    detector = Counting(shift)
    frames = [frame(n, (10 + n / 5, 10.0, 50 + n / 5, 50.0)) for n in range(41)]
    faces = list(FaceTracker(detector, config=DetectorConfig()).track(frames))
    assert [face.frame.number for face in faces] == list(range(41))
    assert all(np.isfinite(face.disagreement) for face in faces)
    in_between = 32 * fits_for_each
    assert detector.fits == in_between + 2 * 9, "each detected face has one of its own and one that was followed to it"


def test_frames_far_apart_in_time_are_all_detected():
    detector = Oracle()
    frames = [frame(n, (10 + n / 5, 10.0, 50 + n / 5, 50.0)) for n in range(0, 250, 25)]
    numbers, _ = tracks(frames, step=25, detector=detector)
    assert numbers == [list(range(0, 250, 25))]
    assert detector.calls == 10


def test_a_time_stamp_that_jumps_is_a_reason_to_detect():
    detector = Oracle()
    list(FaceTracker(detector, config=DetectorConfig()).track([frame(0, FACE), frame(1, FACE)]))
    assert detector.calls == 2  # the first, and the last of the track
    detector.calls = 0
    late = Frame(1, 9.0, frame(1, FACE).image)
    early = Frame(2, 0.08, frame(2, FACE).image)
    list(FaceTracker(detector, config=DetectorConfig()).track([frame(0, FACE), late, early]))
    assert detector.calls == 3


@pytest.mark.parametrize("cut", [1, 4, 5, 7])
def test_a_shot_cut_ends_a_track_although_the_face_stays_in_place(cut):
    numbers, _ = tracks([frame(n, FACE, starts_shot=n == cut) for n in range(12)])
    assert numbers == [list(range(cut)), list(range(cut, 12))]


def test_after_a_shot_cut_the_largest_face_is_taken():
    large = (100.0, 10.0, 200.0, 110.0)
    frames = [frame(n, FACE) if n < 3 else frame(n, large, FACE, starts_shot=n == 3) for n in range(12)]
    faces = FaceTracker(Oracle(), config=DetectorConfig()).track(frames)
    assert [face.box.right > 60 for face in faces] == [False] * 3 + [True] * 9


def test_the_tracked_face_is_kept_when_a_larger_one_appears():
    large = (100.0, 10.0, 200.0, 110.0)
    frames = [frame(n, FACE) if n < 3 else frame(n, large, FACE) for n in range(12)]
    tracker = FaceTracker(Oracle(), config=DetectorConfig())
    assert {s.box.right < 60 for s in tracker.track(frames)} == {True}
    tracker = FaceTracker(Oracle(), config=DetectorConfig())
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
    numbers, _ = tracks([frame(n, FACE) for n in range(MAX_TRACK_FRAMES + 3)], every_s=1)
    assert [len(part) for part in numbers] == [MAX_TRACK_FRAMES, 3]


@given(
    lengths=st.lists(st.integers(1, 9), max_size=8), shortest=st.integers(1, 6), fps=st.sampled_from([1, 24, 25, 30])
)
def test_short_tracks_are_left_out_and_counted(lengths, shortest, fps):
    sightings = [
        TrackedFace(frame(n), Box(0, 0, 1, 1), np.zeros((68, 2)), track)
        for track, length in enumerate(lengths)
        for n in range(length)
    ]
    dropped = []
    kept = [
        (s.track, s.frame.number)
        for s in drop_short_tracks(shortest / fps, sightings, dropped, interval_s=lambda: 1 / fps)
    ]
    assert kept == [(s.track, s.frame.number) for s in sightings if lengths[s.track] >= shortest]
    assert dropped == [length for length in lengths if length < shortest]


def test_iou_by_hand():
    box = Box(0, 0, 10, 10)
    assert box.compute_iou(Box(5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert box.compute_iou(Box(10, 0, 20, 10)) == 0
    assert box.compute_iou(Box(-5, -5, -1, -1)) == 0
    assert box.compute_iou(box) == 1
