"""One face through a video: detect it now and then, follow its landmarks in between, cut where it is lost.

With several faces the one that is followed is kept; at the start and after each loss it is the largest one. A frame is
delivered only when the face was *detected* in it or it lies between two detections of the same face: when a detection
fails, the frames since the last one are all looked at, so that a track ends at the exact frame at which the face went.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from facscale.ingest.detectors.base import Box, Detector, DetectorConfig
from facscale.ingest.frames import Frame

SAME = 0.3  # intersection over union from which two boxes are the same face
JUMP = 0.25  # of the face's size between two frames: more is a cut, not a movement
LONGEST = 4096  # frames of one track; what is longer becomes several, so that memory stays bounded


@dataclass(frozen=True)
class Sighting:
    """A face in a frame."""

    frame: Frame
    box: Box
    points: np.ndarray  # [68, 2], NaN when unknown
    track: int  # rises by one at each cut


class Tracker:
    """Follows one face. `step`: difference of the numbers of neighbouring frames; any other one is a cut."""

    def __init__(self, detector: Detector, *, config: DetectorConfig, step: int = 1) -> None:
        self.detector, self.every, self.step = detector, config.detect_every, step
        self.faceless = 0  # frames without a face
        self._track = -1
        self._length = 0
        self._last: Sighting | None = None
        self._shape: tuple[np.ndarray, np.ndarray] | None = None  # the box relative to the landmarks
        self._pending: list[Sighting] = []  # followed, and not yet confirmed by a detection
        self._number: int | None = None

    def follow(self, frames: Iterable[Frame]) -> Iterator[Sighting]:
        """All sightings in order of time."""
        for frame in frames:
            if self._number is not None and frame.number != self._number + self.step:
                yield from self._settle()
                self._last = None
            self._number = frame.number
            followed = self._followed(frame) if len(self._pending) + 1 < self.every else None
            if followed is None:
                yield from self._look(frame)
            else:
                self._pending.append(followed)
        yield from self._settle()

    def _look(self, frame: Frame) -> Iterator[Sighting]:
        boxes = self.detector.detect(frame.image)
        last = self._pending[-1] if self._pending else self._last
        near = max(boxes, key=last.box.overlap, default=None) if last else None
        if last is not None and near is not None and last.box.overlap(near) >= SAME:
            pending, self._pending = self._pending, []
            for sighting in pending:
                yield self._keep(sighting)
            yield self._keep(self._sighting(frame, self._blended(frame, near)))
            return
        if self._pending:  # it went somewhere in between
            yield from self._settle()
            yield from self._look(frame)
            return
        self._last = None
        if not boxes:
            self.faceless += 1
            return
        yield self._keep(self._sighting(frame, max(boxes, key=lambda box: box.area)))

    def _settle(self) -> Iterator[Sighting]:
        """Look at every frame that was only followed."""
        pending, self._pending = self._pending, []
        for sighting in pending:
            yield from self._look(sighting.frame)

    def _keep(self, sighting: Sighting) -> Sighting:
        if self._last is None or self._length >= LONGEST:
            self._track += 1
            self._length = 0
        self._length += 1
        self._last = Sighting(sighting.frame, sighting.box, sighting.points, self._track)
        self._shape = _relative(sighting)
        return self._last

    def _sighting(self, frame: Frame, box: Box) -> Sighting:
        return Sighting(frame, box, self.detector.landmarks(frame.image, box), -1)

    def _blended(self, frame: Frame, found: Box) -> Box:
        """Detectors place boxes on a coarse raster: half of it is where the landmarks say that the box is."""
        last = self._last
        if last is None or self._shape is None or frame.number != last.frame.number + self.step:
            return found
        return Box(*(np.add(found, _place(last.points, self._shape)) / 2))

    def _followed(self, frame: Frame) -> Sighting | None:
        """The face where it was a frame ago; None when it cannot be followed."""
        last = self._pending[-1] if self._pending else self._last
        if last is None or self._shape is None:
            return None
        sighting = self._sighting(frame, _place(last.points, self._shape))
        before, after = _centre_and_size(last.points), _centre_and_size(sighting.points)
        moved = float(np.hypot(*(after[:2] - before[:2]))) / before[2]
        resized = abs(after[2] / before[2] - 1)
        return sighting if moved < JUMP and resized < JUMP else None


def longer_than(shortest: int, sightings: Iterable[Sighting], dropped: list[int]) -> Iterator[Sighting]:
    """Leave out tracks of fewer than `shortest` frames; the length of each is appended to `dropped`."""
    for _, track in groupby(sightings, key=lambda sighting: sighting.track):
        held: list[Sighting] = []
        for sighting in track:
            held.append(sighting)
            if len(held) == shortest:
                yield from held
            elif len(held) > shortest:
                yield held.pop()
        if len(held) < shortest:
            dropped.append(len(held))


def _centre_and_size(points: np.ndarray) -> np.ndarray:
    centre = points.mean(axis=0)
    return np.array([*centre, np.sqrt(((points - centre) ** 2).sum(axis=1).mean())])


def _relative(sighting: Sighting) -> tuple[np.ndarray, np.ndarray] | None:
    """(offset of the box's centre, half its sides) in units of the landmarks' size; None without landmarks."""
    x, y, size = _centre_and_size(sighting.points)
    if not size > 0:  # NaN too
        return None
    box = sighting.box
    offset = np.array([(box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y]) / size
    return offset, np.array([box.right - box.left, box.bottom - box.top]) / 2 / size


def _place(points: np.ndarray, shape: tuple[np.ndarray, np.ndarray]) -> Box:
    x, y, size = _centre_and_size(points)
    centre, half = np.array([x, y]) + shape[0] * size, shape[1] * size
    return Box(*(centre - half), *(centre + half))
