"""Counts the people in a video whose faces are detected, but not tracked, so that a report can say how many were left out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from facscale.ingest.detectors.base import Box

MIN_IOU = 0.3  # a box with at least this intersection over union with the last position shows the same face
TOLERANCE_S = 1e-3  # time stamps are rounded


def find_same(boxes: Iterable[Box], last: Box) -> Box | None:
    """Find the box that overlaps most with the last position; None if the overlap is too small."""
    box = max(boxes, key=last.compute_iou, default=None)
    return box if box is not None and last.compute_iou(box) >= MIN_IOU else None


@dataclass
class _Bystander:
    """A face that is not tracked, at its last position."""

    box: Box
    first_s: float
    last_s: float


class BystanderCounter:
    """Links the boxes that are not tracked into faces, by their places within a shot."""

    def __init__(self) -> None:
        self._present: list[_Bystander] = []  # in this shot
        self._durations_s: list[float] = []  # of those in earlier shots

    def add(self, time_s: float, boxes: Iterable[Box], *, tracked: Box) -> None:
        """Add the boxes that the detector saw in a frame, of which `tracked` is followed by itself."""
        for box in boxes:
            if box is tracked:
                continue
            same = find_same((present.box for present in self._present), box)
            if same is None:
                self._present.append(_Bystander(box, time_s, time_s))
                continue
            present = next(present for present in self._present if present.box is same)
            present.box, present.last_s = box, time_s

    def end_shot(self) -> None:
        """Forget the places: the next frame shows another scene."""
        self._durations_s += [present.last_s - present.first_s for present in self._present]
        self._present = []

    def count(self, *, shortest_s: float, interval_s: float) -> int:
        """Count the faces that were seen for as long as a track has to last: fewer detections are mostly false.

        `interval_s`: seconds that each frame stands for.
        """
        self.end_shot()
        shortest = max(1, math.ceil((shortest_s - TOLERANCE_S) / interval_s)) if shortest_s else 1
        return sum(duration >= (shortest - 1) * interval_s - TOLERANCE_S for duration in self._durations_s)
