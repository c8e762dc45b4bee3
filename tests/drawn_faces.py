"""A face detector for "frames" that are lists of faces, so that what a tracker should follow is known."""

from __future__ import annotations

import numpy as np

from facscale.ingest.detectors import Box, Detector
from facscale.ingest.frames import Frame


class Oracle(Detector):
    """A "frame" [1, N, 5] holds its faces: left, top, right, bottom, and whether it is visible."""

    calls = 0

    def __init__(self):
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


def frame(number, *faces, starts_shot=False):
    rows = np.array([[*face, 1] for face in faces] or [[0, 0, 1, 1, 0]], np.float64)
    return Frame(number, number / 25, rows[None], starts_shot)
