"""Tracks one face through a video: detects it a few times a second, follows its landmarks in between, cuts on loss.

When several faces are visible, the tracked one is kept; at the start and after each loss or shot cut, the largest is
taken. A frame is delivered only if the face was *detected* in it or if it lies between two detections of the same face
and its landmarks agree whether they are followed forwards from the first or backwards from the second (the
forward-backward error of Kalal et al., 2010); where they do not, the detector runs on that frame. Where the second
detection agrees very well with the landmarks that were followed up to it, they are not followed backwards, which takes half
of the time. When a detection fails, it runs on every frame since the last one, so that a track ends at the exact frame at which the face disappeared.

All limits are in seconds, so that a source of one frame a second is treated as one of 25: there, neighbouring frames are
too far apart to follow a face, and the detector runs on each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from facscale.data import align
from facscale.ingest.bystanders import TOLERANCE_S, BystanderCounter, find_same
from facscale.ingest.detectors.base import Box, Detector, DetectorConfig
from facscale.ingest.frames import Frame
from facscale.ingest.quality import MAX_DISAGREEMENT

MAX_JUMP = 0.25  # of the face's size between two frames: more is a cut, not a movement
MAX_TRACK_FRAMES = 4096  # longer tracks are split, so that memory stays bounded
SURE_DISAGREEMENT = 0.04  # eye distances: followed landmarks that end nearer to the detected ones were right
SHIFT = 0.04  # of the box: the second start of the landmarks of a detected face, to see whether they depend on it


@dataclass(frozen=True)
class TrackedFace:
    """The face of a track in one frame."""

    frame: Frame
    box: Box
    points: np.ndarray  # [68, 2], NaN when unknown
    track: int  # rises by one at each cut
    disagreement: float = float(
        "nan"
    )  # mean distance between two fits of the landmarks, in eye distances; NaN: unknown


class FaceTracker:
    """Tracks one face. `step`: difference of the numbers of neighbouring frames; any other difference is a cut."""

    def __init__(self, detector: Detector, *, config: DetectorConfig, step: int = 1) -> None:
        self.detector, self.every_s, self.step = detector, config.detect_every_s, step
        self.faceless = 0  # frames without a face
        self.bystanders = BystanderCounter()
        self._track = -1
        self._length = 0
        self._last: TrackedFace | None = None  # the last one that was delivered
        self._detected_s = -np.inf  # time of the last frame on which the detector ran
        self._pending: list[TrackedFace] = []  # followed, and not yet confirmed by a detection
        self._number: int | None = None

    def track(self, frames: Iterable[Frame]) -> Iterator[TrackedFace]:
        """Yield all tracked faces in order of time."""
        for frame in frames:
            is_neighbour = self._number is not None and frame.number == self._number + self.step
            if frame.starts_shot or not is_neighbour:
                yield from self._close()
                self.bystanders.end_shot()
            self._number = frame.number
            face = None if self._is_due(frame) else self._follow(frame)
            if face is None:
                yield from self._detect(frame)
            else:
                self._pending.append(face)
        yield from self._close()

    def _is_due(self, frame: Frame) -> bool:
        """Return whether the last detection is too long ago for following the face from it."""
        return not 0 <= frame.time_s - self._detected_s < self.every_s - TOLERANCE_S

    def _detect(self, frame: Frame, boxes: list[Box] | None = None) -> Iterator[TrackedFace]:
        """Deliver the frame, and those pending before it, if the tracked face is in it. `boxes`: those already detected."""
        boxes = self.detector.detect(frame.image) if boxes is None else boxes
        self._detected_s = frame.time_s
        followed = self._follow(frame) if self._pending else None
        last = followed or (self._pending[-1] if self._pending else self._last)
        box = find_same(boxes, last.box) if last else None
        if box is not None:
            self.bystanders.add(frame.time_s, boxes, tracked=box)
            detected = self._locate(frame, box)
            face = self._check_start(detected) if followed is None else _choose_detected(detected, followed)
            if followed is not None and face.disagreement <= SURE_DISAGREEMENT:
                yield from self._accept_pending(face.disagreement)
            else:
                yield from self._confirm_pending(face)
            yield self._deliver(face)
            return
        if self._pending:  # the face disappeared in one of the frames in between
            yield from self._detect_pending()
            yield from self._detect(frame, boxes)
            return
        self._last = None
        if not boxes:
            self.faceless += 1
            return
        box = max(boxes, key=lambda box: box.area)
        self.bystanders.add(frame.time_s, boxes, tracked=box)
        yield self._deliver(self._check_start(self._locate(frame, box)))

    def _close(self) -> Iterator[TrackedFace]:
        """Deliver what is pending and end the track."""
        if self._pending:
            yield from self._detect(self._pending.pop().frame)
        self._last = None

    def _detect_pending(self) -> Iterator[TrackedFace]:
        """Run the detector on every frame that was only followed."""
        pending, self._pending = self._pending, []
        for face in pending:
            yield from self._detect(face.frame)

    def _accept_pending(self, disagreement: float) -> Iterator[TrackedFace]:
        """Deliver the pending faces as they are; `disagreement` is that of the detected face after them."""
        pending, self._pending = self._pending, []
        for face in pending:
            yield self._deliver(replace(face, disagreement=disagreement))

    def _confirm_pending(self, detected_face: TrackedFace) -> Iterator[TrackedFace]:
        """Deliver the pending faces before a detected one, in the order of time.

        Each is followed backwards from its successor as well. Where both ways agree, the mean is taken; elsewhere the
        detector decides, and a frame in which it does not see the face ends the track.
        """
        pending, self._pending = self._pending, []
        confirmed: list[TrackedFace | None] = []
        successor = detected_face
        for face in reversed(pending):
            back = self._follow_from(successor, face.frame)
            disagreement = compute_disagreement(face.points, back.points) if back else float("inf")
            if back is not None and disagreement <= MAX_DISAGREEMENT:
                successor = _average(face, back, disagreement)
                confirmed.append(successor)
                continue
            box = find_same(self.detector.detect(face.frame.image), (back or face).box)
            if box is None:
                confirmed.append(None)
                continue
            detected = self._locate(face.frame, box)
            others = [face, back] if back else [face]
            nearest = min(compute_disagreement(detected.points, other.points) for other in others)
            successor = replace(detected, disagreement=nearest)
            confirmed.append(successor)
        for face_or_none in reversed(confirmed):
            if face_or_none is None:
                self.faceless += 1
                self._last = None
            else:
                yield self._deliver(face_or_none)

    def _deliver(self, face: TrackedFace) -> TrackedFace:
        """Assign the face to the current track, or to a new one after a loss or at the maximum length."""
        if self._last is None or self._length >= MAX_TRACK_FRAMES:
            self._track += 1
            self._length = 0
        self._length += 1
        self._last = replace(face, track=self._track)
        return self._last

    def _locate(self, frame: Frame, box: Box) -> TrackedFace:
        return TrackedFace(frame, box, self.detector.predict_landmarks(frame.image, box), -1)

    def _check_start(self, face: TrackedFace) -> TrackedFace:
        """Fill in the disagreement of a face that was not followed: with its landmarks from a shifted box."""
        if np.isnan(face.points).any():
            return face
        box = face.box
        width, height = SHIFT * (box.right - box.left), SHIFT * (box.bottom - box.top)
        shifted = Box(box.left + width, box.top + height, box.right + width, box.bottom + height)
        points = self.detector.predict_landmarks(face.frame.image, shifted)
        return replace(face, disagreement=compute_disagreement(face.points, points))

    def _follow(self, frame: Frame) -> TrackedFace | None:
        """Locate the face near its last position; None if there is none, or it jumped or changed its size too much."""
        last = self._pending[-1] if self._pending else self._last
        return self._follow_from(last, frame) if last else None

    def _follow_from(self, last: TrackedFace, frame: Frame) -> TrackedFace | None:
        box_shape = _describe_box(last)
        if box_shape is None:
            return None
        face = self._locate(frame, _predict_box(last.points, box_shape))
        before, after = _measure_points(last.points), _measure_points(face.points)
        shift = float(np.hypot(*(after[:2] - before[:2]))) / before[2]
        growth = abs(after[2] / before[2] - 1)
        if not (shift < MAX_JUMP and growth < MAX_JUMP):  # NaN too
            return None
        return replace(face, box=_predict_box(face.points, box_shape))


def compute_disagreement(points: np.ndarray, others: np.ndarray) -> float:
    """Compute the mean distance between two fits of the landmarks [68, 2], in distances between the eyes of the first."""
    eyes = align.locate_eyes(points)
    distance = float(np.hypot(*(eyes[1] - eyes[0])))
    return float(np.hypot(*(points - others).T).mean()) / max(distance, align.MIN_EYE_DISTANCE)


def _average(face: TrackedFace, other: TrackedFace, disagreement: float) -> TrackedFace:
    """Average two fits of the same frame."""
    box = Box(*(np.add(face.box, other.box) / 2))
    return replace(face, box=box, points=(face.points + other.points) / 2, disagreement=disagreement)


def _choose_detected(detected: TrackedFace, followed: TrackedFace) -> TrackedFace:
    """Average a detected face with the followed one, because detectors quantise boxes coarsely, unless they disagree."""
    disagreement = compute_disagreement(detected.points, followed.points)
    if disagreement <= MAX_DISAGREEMENT:
        return _average(detected, followed, disagreement)
    return replace(detected, disagreement=disagreement)


def drop_short_tracks(
    shortest_s: float, faces: Iterable[TrackedFace], dropped: list[int], *, interval_s: Callable[[], float]
) -> Iterator[TrackedFace]:
    """Leave out tracks of less than `shortest_s` seconds; the number of frames of each is appended to `dropped`.

    `interval_s`: returns the seconds that each frame stands for; it is called once there is a face.
    """
    for _, track in groupby(faces, key=lambda face: face.track):
        shortest = max(1, math.ceil((shortest_s - TOLERANCE_S) / interval_s()))
        head: list[TrackedFace] = []
        for face in track:
            head.append(face)
            if len(head) == shortest:
                yield from head
            elif len(head) > shortest:
                yield head.pop()
        if len(head) < shortest:
            dropped.append(len(head))


def _measure_points(points: np.ndarray) -> np.ndarray:
    """Return the centre (x, y) of the points and their root mean square distance from it: [3]."""
    centre = points.mean(axis=0)
    return np.array([*centre, np.sqrt(((points - centre) ** 2).sum(axis=1).mean())])


def _describe_box(face: TrackedFace) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (offset of the box's centre, half its sides) in units of the landmarks' size; None without landmarks."""
    x, y, size = _measure_points(face.points)
    if not size > 0:  # NaN too
        return None
    box = face.box
    offset = np.array([(box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y]) / size
    return offset, np.array([box.right - box.left, box.bottom - box.top]) / 2 / size


def _predict_box(points: np.ndarray, box_shape: tuple[np.ndarray, np.ndarray]) -> Box:
    """Invert `_describe_box` for new landmarks."""
    x, y, size = _measure_points(points)
    centre, half = np.array([x, y]) + box_shape[0] * size, box_shape[1] * size
    return Box(*(centre - half), *(centre + half))
