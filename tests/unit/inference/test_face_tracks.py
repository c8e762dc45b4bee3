"""All faces of a video against an oracle that knows them, and against the tracker of data sets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from drawn_faces import Oracle, frame
from facscale.inference.face_tracks import MEMORY_S, FaceSetTracker
from facscale.ingest.detectors import DetectorConfig
from facscale.ingest.tracking import FaceTracker, drop_short_tracks


def follow(frames, *, shortest_s=0.2, interval_s=0.04, detector=None):
    config = DetectorConfig(shortest_track_s=shortest_s)
    tracker = FaceSetTracker(detector or Oracle(), config=config, interval_s=interval_s)
    return list(tracker.track(frames))


def numbers_of(entries):
    """The frames of each face."""
    numbers = {}
    for entry in entries:
        for face, _, _ in entry.faces:
            numbers.setdefault(face, []).append(entry.frame.number)
    return numbers


def at(x, number=0):
    return (x + number, 10.0, x + 40.0 + number, 50.0)


def test_one_face_is_followed_as_in_a_data_set():
    hidden = {*range(13, 16), 31, *range(60, 70)}
    frames = [frame(n, *([] if n in hidden else [at(10, n / 3)]), starts_shot=n == 45) for n in range(100)]
    config = DetectorConfig()
    tracker = FaceTracker(Oracle(), config=config)
    own = list(drop_short_tracks(0.2, tracker.track(frames), [], interval_s=lambda: 0.04))
    entries = follow(frames)
    assert [entry.frame.number for entry in entries] == list(range(100))
    faces = [face for entry in entries for face in entry.faces.values()]
    assert [face.frame.number for face in faces] == [face.frame.number for face in own]
    assert np.allclose([face.points for face in faces], [face.points for face in own])
    assert np.allclose([face.box for face in faces], [face.box for face in own])
    runs = [key for entry in entries for key in entry.faces]
    breaks = [before != after for before, after in pairwise(runs)]
    assert breaks == [before.track != after.track for before, after in pairwise(own)]


def test_faces_keep_their_numbers_while_others_come_and_go():
    frames = [frame(n, *([at(200)] if 20 <= n < 60 else []), at(10), *([at(100)] if n < 40 else [])) for n in range(90)]
    assert numbers_of(follow(frames)) == {0: list(range(90)), 1: list(range(40)), 2: list(range(20, 60))}


def test_eight_faces_share_one_detection():
    detector = Oracle()
    entries = follow([frame(n, *(at(60 * k) for k in range(8))) for n in range(50)], detector=detector)
    assert numbers_of(entries) == {face: list(range(50)) for face in range(8)}
    assert detector.calls == 11  # every 0.2 s, and at the end


@pytest.mark.parametrize(("gap_s", "faces"), [(MEMORY_S / 2, 1), (2 * MEMORY_S, 2)])
def test_a_face_that_reappears_soon_is_the_same(gap_s, faces):
    gap = range(30, 30 + round(25 * gap_s))
    entries = follow([frame(n, *([] if n in gap else [at(10)])) for n in range(gap[-1] + 30)])
    assert len(numbers_of(entries)) == faces
    assert len({key for entry in entries for key in entry.faces}) == 2  # what is unbroken ends in any case


def test_another_shot_shows_other_faces():
    entries = follow([frame(n, at(10), starts_shot=n == 25) for n in range(50)])
    assert numbers_of(entries) == {0: list(range(25)), 1: list(range(25, 50))}


def test_what_lasts_too_short_is_no_face():
    entries = follow([frame(n, at(10), *([at(100)] if 20 <= n < 24 else [])) for n in range(60)])
    assert numbers_of(entries) == {0: list(range(60))}
    assert numbers_of(follow([frame(n, *([at(9)] if n < 3 else [])) for n in range(20)])) == {}


def test_single_images_do_not_follow_each_other():
    entries = follow([frame(n, at(10)) for n in range(3)], interval_s=0)
    assert numbers_of(entries) == {0: [0], 1: [1], 2: [2]}


def test_frames_are_not_kept_for_long():
    """Memory does not grow with the length of a video."""
    read = 0

    def film():
        nonlocal read
        for n in range(3000):
            read += 1
            yield frame(n, at(10), *([at(100)] if n % 500 < 250 else []))

    tracker = FaceSetTracker(Oracle(), config=DetectorConfig(), interval_s=0.04)
    lags = [read - 1 - entry.frame.number for entry in tracker.track(film())]
    assert max(lags) <= 10
    assert len(tracker.detector._detections) <= 10
