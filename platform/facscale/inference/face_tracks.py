"""Follows all faces of a video: each keeps its number until it is lost, and gets it back where it reappears at once.

Every face is followed as `ingest.tracking` follows the only one of a data set, so that its crops are those that a detector
has learned from. All faces share one detection on a frame. A frame is delivered once every face in it is certain: a face
that is followed is certain at the next detection, and a new one when it has lasted for `shortest_track_s`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from facscale.ingest.bystanders import TOLERANCE_S, find_same
from facscale.ingest.detectors.base import Box, Detector, DetectorConfig
from facscale.ingest.frames import Frame
from facscale.ingest.tracking import FaceTracker, TrackedFace

MEMORY_S = 2.0  # a face that reappears within this time at its last place is the same
SAME_IOU = 0.7  # two faces whose boxes overlap more are one
KEPT_DETECTIONS = 64  # frames whose detections are remembered, for faces that need them again

RunKey = tuple[int, int, int]  # face, appearance, unbroken track within it


@dataclass
class FaceFrame:
    """A frame with all faces that are followed in it, by the run that each belongs to."""

    frame: Frame
    faces: dict[RunKey, TrackedFace] = field(default_factory=dict)


class SharedDetector(Detector):
    """A face detector that remembers what it has detected in the last frames."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._detections: deque[tuple[np.ndarray, list[Box]]] = deque(maxlen=KEPT_DETECTIONS)

    def detect(self, image: np.ndarray) -> list[Box]:
        for known, boxes in self._detections:
            if known is image:
                return list(boxes)
        boxes = self.detector.detect(image)
        self._detections.append((image, boxes))
        return list(boxes)

    def predict_landmarks(self, image: np.ndarray, box: Box) -> np.ndarray:
        return self.detector.predict_landmarks(image, box)

    def forget(self, image: np.ndarray) -> None:
        """Forget a frame, and all before it."""
        while self._detections and any(known is image for known, _ in self._detections):
            self._detections.popleft()


class FaceFollower(FaceTracker):
    """Follows one face from a detection on, and never goes over to another one."""

    def __init__(self, detector: Detector, *, config: DetectorConfig, step: int, face: int, appearance: int) -> None:
        super().__init__(detector, config=config, step=step)
        self.face, self.appearance = face, appearance
        self.frames = 0  # delivered
        self.first: int | None = None  # number of its first frame
        self.is_certain = False
        self.last_box: Box | None = None
        self.last_s = 0.0

    def start(self, frame: Frame, box: Box) -> list[TrackedFace]:
        """Begin with a detected box."""
        self.first = frame.number
        return self._count([self._deliver(self._check_start(self._locate(frame, box)))])

    def advance(self, frame: Frame, boxes: list[Box] | None) -> list[TrackedFace]:
        """Go on to the next frame. `boxes`: those that are detected in it and that no other face has; None: follow."""
        face = self._follow(frame) if boxes is None else None
        if face is not None:
            self._pending.append(face)
            return []
        return self._count(list(self._detect(frame, boxes)))

    def close(self) -> list[TrackedFace]:
        """End the track, at a cut or at the end of the video."""
        return self._count(list(self._close()))

    @property
    def is_lost(self) -> bool:
        """Whether the face is no longer there."""
        return self._last is None and not self._pending

    @property
    def first_open(self) -> int | None:
        """Number of the first frame that is not certain yet; None if all are."""
        if not self.is_certain:
            return self.first
        return self._pending[0].frame.number if self._pending else None

    def _detect(self, frame: Frame, boxes: list[Box] | None = None) -> Iterator[TrackedFace]:
        boxes = self.detector.detect(frame.image) if boxes is None else boxes
        last = self._pending[-1] if self._pending else self._last
        near = [] if last is None else [box for box in boxes if find_same([box], last.box) is not None]
        yield from super()._detect(frame, near)

    def _count(self, faces: list[TrackedFace]) -> list[TrackedFace]:
        self.frames += len(faces)
        if faces:
            self.last_box, self.last_s = faces[-1].box, faces[-1].frame.time_s
        return faces


class FaceSetTracker:
    """Follows all faces. `interval_s`: seconds between frames; 0: single images, none of which follows another."""

    def __init__(self, detector: Detector, *, config: DetectorConfig, step: int = 1, interval_s: float = 0.0) -> None:
        self.detector, self.config, self.step = SharedDetector(detector), config, step
        self.is_still = not interval_s
        seconds = config.shortest_track_s - TOLERANCE_S
        self.shortest = 1 if self.is_still else max(1, math.ceil(seconds / interval_s))
        self._followers: list[FaceFollower] = []
        self._lost: list[FaceFollower] = []
        self._open: deque[FaceFrame] = deque()
        self._detected_s, self._faces, self._appearances = -math.inf, 0, 0
        self._number: int | None = None

    def track(self, frames: Iterable[Frame]) -> Iterator[FaceFrame]:
        """Yield all frames in order, a few late."""
        for frame in frames:
            is_neighbour = self._number is not None and frame.number == self._number + self.step
            if frame.starts_shot or not is_neighbour or self.is_still:
                self._end_all()
                self._lost = []
            self._number = frame.number
            self._open.append(FaceFrame(frame))
            self._advance(frame)
            yield from self._release()
        self._end_all()
        yield from self._release()

    def _advance(self, frame: Frame) -> None:
        is_due = (
            not self._followers or not 0 <= frame.time_s - self._detected_s < self.config.detect_every_s - TOLERANCE_S
        )
        boxes = self.detector.detect(frame.image) if is_due else None
        if boxes is not None:
            self._detected_s = frame.time_s
        for follower in self._followers:
            faces = follower.advance(frame, boxes)
            self._record(follower, faces)
            if boxes is not None and faces and faces[-1].frame is frame:
                taken = find_same(boxes, faces[-1].box)
                boxes = [box for box in boxes if box is not taken]
        self._drop_lost()
        for box in sorted(boxes or [], key=lambda box: -box.area):
            if find_same([follower.last_box for follower in self._followers if follower.last_box], box) is None:
                self._start(frame, box)

    def _start(self, frame: Frame, box: Box) -> None:
        known = [lost for lost in self._lost if lost.last_box and frame.time_s - lost.last_s <= MEMORY_S]
        same = find_same([lost.last_box for lost in known if lost.last_box], box)
        earlier = next((lost for lost in known if lost.last_box is same), None) if same else None
        self._appearances += 1
        face = earlier.face if earlier else self._faces
        self._faces += earlier is None
        follower = FaceFollower(
            self.detector, config=self.config, step=self.step, face=face, appearance=self._appearances
        )
        follower.is_certain = earlier is not None
        if earlier:
            self._lost.remove(earlier)
        self._followers.append(follower)
        self._record(follower, follower.start(frame, box))

    def _record(self, follower: FaceFollower, faces: list[TrackedFace]) -> None:
        """Enter faces in their frames."""
        for face in faces:
            entry = next(entry for entry in reversed(self._open) if entry.frame is face.frame)
            entry.faces[follower.face, follower.appearance, face.track] = face
        follower.is_certain |= follower.frames >= self.shortest

    def _drop_lost(self) -> None:
        """Retire faces that are no longer there, and the younger of two that have become the same."""
        for follower in [follower for follower in self._followers if follower.is_lost]:
            self._retire(follower)
        kept: list[FaceFollower] = []
        for follower in list(self._followers):
            if follower.last_box and any(
                other.last_box.compute_iou(follower.last_box) > SAME_IOU for other in kept if other.last_box
            ):
                self._record(follower, follower.close())
                self._retire(follower)
            else:
                kept.append(follower)

    def _end_all(self) -> None:
        for follower in list(self._followers):
            self._record(follower, follower.close())
            self._retire(follower)
        self._detected_s = -math.inf

    def _retire(self, follower: FaceFollower) -> None:
        self._followers.remove(follower)
        if follower.is_certain:
            self._lost.append(follower)
            return
        for entry in self._open:
            for key in [key for key in entry.faces if key[1] == follower.appearance]:
                del entry.faces[key]
        if follower.face == self._faces - 1:
            self._faces -= 1  # nobody has seen this number

    def _release(self) -> Iterator[FaceFrame]:
        """Yield the frames before the first one that is not certain."""
        firsts = [first for follower in self._followers if (first := follower.first_open) is not None]
        limit = min(firsts, default=None)
        while self._open and (limit is None or self._open[0].frame.number < limit):
            entry = self._open.popleft()
            self.detector.forget(entry.frame.image)
            yield entry
