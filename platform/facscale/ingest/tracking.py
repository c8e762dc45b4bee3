"""Tracks one face through a video: detects it every few frames, propagates its landmarks in between, cuts on loss.

When several faces are visible, the tracked one is kept; at the start and after each loss, the largest is taken. A frame
is delivered only if the face was *detected* in it or if it lies between two detections of the same face: when a
detection fails, the detector runs on every frame since the last one, so that a track ends at the exact frame at which
the face disappeared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from facscale.ingest.detectors.base import Box, Detector, DetectorConfig
from facscale.ingest.frames import Frame

MIN_IOU = 0.3  # two boxes with at least this intersection over union are the same face
MAX_JUMP = 0.25  # of the face's size between two frames: more is a cut, not a movement
MAX_TRACK_FRAMES = 4096  # longer tracks are split, so that memory stays bounded


@dataclass(frozen=True)
class TrackedFace:
    """The face of a track in one frame."""

    frame: Frame
    box: Box
    points: np.ndarray  # [68, 2], NaN when unknown
    track: int  # rises by one at each cut


class FaceTracker:
    """Tracks one face. `step`: difference of the numbers of neighbouring frames; any other difference is a cut."""

    def __init__(self, detector: Detector, *, config: DetectorConfig, step: int = 1) -> None:
        self.detector, self.every, self.step = detector, config.detect_every, step
        self.faceless = 0  # frames without a face
        self._track = -1
        self._length = 0
        self._last: TrackedFace | None = None  # the last one that was delivered
        self._box_shape: tuple[np.ndarray, np.ndarray] | None = None  # the box relative to the landmarks
        self._pending: list[TrackedFace] = []  # propagated, and not yet confirmed by a detection
        self._number: int | None = None

    def track(self, frames: Iterable[Frame]) -> Iterator[TrackedFace]:
        """Yield all tracked faces in order of time."""
        for frame in frames:
            if self._number is not None and frame.number != self._number + self.step:
                yield from self._confirm_pending()
                self._last = None
            self._number = frame.number
            face = self._propagate(frame) if len(self._pending) + 1 < self.every else None
            if face is None:
                yield from self._detect(frame)
            else:
                self._pending.append(face)
        yield from self._confirm_pending()

    def _detect(self, frame: Frame) -> Iterator[TrackedFace]:
        boxes = self.detector.detect(frame.image)
        last = self._pending[-1] if self._pending else self._last
        nearest = max(boxes, key=last.box.compute_iou, default=None) if last else None
        if last is not None and nearest is not None and last.box.compute_iou(nearest) >= MIN_IOU:
            pending, self._pending = self._pending, []
            for face in pending:
                yield self._deliver(face)
            yield self._deliver(self._locate(frame, self._refine_box(frame, nearest)))
            return
        if self._pending:  # the face disappeared in one of the frames in between
            yield from self._confirm_pending()
            yield from self._detect(frame)
            return
        self._last = None
        if not boxes:
            self.faceless += 1
            return
        yield self._deliver(self._locate(frame, max(boxes, key=lambda box: box.area)))

    def _confirm_pending(self) -> Iterator[TrackedFace]:
        """Run the detector on every frame that was only propagated."""
        pending, self._pending = self._pending, []
        for face in pending:
            yield from self._detect(face.frame)

    def _deliver(self, face: TrackedFace) -> TrackedFace:
        """Assign the face to the current track, or to a new one after a loss or at the maximum length."""
        if self._last is None or self._length >= MAX_TRACK_FRAMES:
            self._track += 1
            self._length = 0
        self._length += 1
        self._last = replace(face, track=self._track)
        self._box_shape = _describe_box(face)
        return self._last

    def _locate(self, frame: Frame, box: Box) -> TrackedFace:
        return TrackedFace(frame, box, self.detector.predict_landmarks(frame.image, box), -1)

    def _refine_box(self, frame: Frame, box: Box) -> Box:
        """Average a detected box with the one that the last landmarks predict: detectors quantise boxes coarsely."""
        last = self._last
        if last is None or self._box_shape is None or frame.number != last.frame.number + self.step:
            return box
        return Box(*(np.add(box, _predict_box(last.points, self._box_shape)) / 2))

    def _propagate(self, frame: Frame) -> TrackedFace | None:
        """Locate the face near its last position; None if it jumped or changed its size too much."""
        last = self._pending[-1] if self._pending else self._last
        if last is None or self._box_shape is None:
            return None
        face = self._locate(frame, _predict_box(last.points, self._box_shape))
        before, after = _measure_points(last.points), _measure_points(face.points)
        shift = float(np.hypot(*(after[:2] - before[:2]))) / before[2]
        growth = abs(after[2] / before[2] - 1)
        return face if shift < MAX_JUMP and growth < MAX_JUMP else None


def drop_short_tracks(shortest: int, faces: Iterable[TrackedFace], dropped: list[int]) -> Iterator[TrackedFace]:
    """Leave out tracks of fewer than `shortest` frames; the length of each is appended to `dropped`."""
    for _, track in groupby(faces, key=lambda face: face.track):
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
