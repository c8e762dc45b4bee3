"""Tracking with dlib against the truth of rendered faces: how well landmarks are followed, and where tracks end."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby

import cv2
import numpy as np
import pytest
import simplejpeg

from facscale.data import align
from facscale.ingest import detectors
from facscale.ingest.frames import Frame, FrameReader
from facscale.ingest.items import Item
from facscale.ingest.tracking import FaceTracker
from facscale.synthetic import render_clip
from plugins.blob_faces import write_video

WIDTH, HEIGHT = 360, 240
SIZE = 224  # pixels, side of a rendered frame


@lru_cache
def render(identity):
    """Render a second of a person."""
    return render_clip(identity=identity, clip=0, seconds=1, fps=25, size=SIZE)


def locate_head(time_s, phase):
    """Return the matrix [2, 3] that moves, turns and scales a rendered frame at a time, as a lively person would."""
    swing = [np.sin(2 * np.pi * hertz * time_s + phase) for hertz in (0.7, 0.9, 0.8, 1.3)]
    angle = np.deg2rad(18 * swing[1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (1 + 0.2 * swing[0])
    centre = np.array([WIDTH / 2 + 100 * swing[2], HEIGHT / 2 + 35 * swing[3]])
    return np.hstack([turn, (centre - turn @ np.full(2, SIZE / 2))[:, None]])


def film(identity, *, every, count):
    """Film a lively person: `count` frames, `every` / 25 s apart, and their true landmarks [68, 2] by frame number."""
    clip, frames, truth = render(identity), [], {}
    for number in range(0, count * every, every):
        matrix, index = locate_head(number / 25, identity), number % (2 * len(clip.frames) - 2)
        index = min(index, 2 * len(clip.frames) - 2 - index)  # forwards, then backwards
        image = cv2.warpAffine(clip.frames[index], matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        frames.append(Frame(number, number / 25, image))
        truth[number] = align.transform_points(clip.landmarks[index], matrix)
    return frames, truth


def make_tracker(*, step=1, **options):
    detector = detectors.find("dlib")
    config = detector.Config(**options)
    return FaceTracker(detector(config), config=config, step=step)


def measure_error(points, truth):
    """Return the mean distance of both eye centres from the truth, in distances between the eyes."""
    eyes = align.locate_eyes(truth)
    return np.linalg.norm(align.locate_eyes(points) - eyes, axis=1).mean() / np.linalg.norm(eyes[1] - eyes[0])


@pytest.mark.parametrize(("every", "count"), [(1, 50), (5, 20), (25, 10)])
def test_landmarks_are_as_near_the_truth_at_every_rate_as_those_of_the_detector_alone(every, count):
    errors, alone, frames_of_all = [], [], 0
    for identity in (1, 2):
        frames, truth = film(identity, every=every, count=count)
        tracker = make_tracker(step=every, smallest_face=0.3)
        errors += [measure_error(face.points, truth[face.frame.number]) for face in tracker.track(frames)]
        for frame in frames[:: count // 10]:
            boxes = tracker.detector.detect(frame.image)
            fits = [tracker.detector.predict_landmarks(frame.image, box) for box in boxes]
            alone += [measure_error(points, truth[frame.number]) for points in fits]
        frames_of_all += count
    assert len(errors) >= 0.95 * frames_of_all
    assert np.mean(errors) < 1.1 * np.mean(alone)
    assert np.max(errors) < 0.35


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """The folder of a video: a second of one rendered person, then a second of another."""
    root = tmp_path_factory.mktemp("joined")
    images = [image for identity in (1, 2) for image in render(identity).frames]
    write_video(root / "a.mp4", images)
    folder = root / "images"
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:03d}.jpg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image)))
    return root


VIDEO = Item("anna", "a", "", ("a.mp4",))
IMAGES = Item("anna", "a", "", tuple(f"images/{n:03d}.jpg" for n in range(50)), numbers=tuple(range(50)))


@pytest.mark.parametrize("every", [1, 5, 10])
@pytest.mark.parametrize("item", [VIDEO, IMAGES], ids=["video", "images"])
def test_a_shot_cut_between_two_people_in_the_same_place_ends_the_track(joined, item, every):
    frames = FrameReader(item, root=str(joined), every=every, note=print)
    faces = list(make_tracker(step=every).track(frames))
    tracks = [[face.frame.number for face in track] for _, track in groupby(faces, key=lambda face: face.track)]
    assert tracks == [list(range(0, 25, every)), list(range(-(-25 // every) * every, 50, every))]
    assert frames.shot_cuts == 1
