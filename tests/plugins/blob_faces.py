"""A detector in a package of its own: its faces are red rectangles, so that tests know where they are.

The folder of this file holds the package as pip would install it (code and dist-info side by side).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from facscale.ingest.detectors import Box, Detector, DetectorConfig

HEIGHT, WIDTH = 96, 128
RED = (220, 20, 20)
CRASH_COLOUR = (20, 220, 20)  # a frame of this colour ends the process that runs the detector on it
TEMPLATE = np.stack([np.linspace(0.1, 0.9, 68), 0.6 + 0.3 * np.cos(np.linspace(0, 6, 68))], axis=1)
TEMPLATE[36:42] = (0.3, 0.4)
TEMPLATE[42:48] = (0.7, 0.4)


class Config(DetectorConfig):
    threshold: int = 120


class Blob(Detector):
    """Detects red rectangles, from left to right."""

    Config = Config
    calls = 0  # of detect

    def __init__(self, config):
        self.config = config

    def detect(self, image):
        type(self).calls += 1
        if image[0, 0, 1] > 150 and image[0, 0, 0] < 80:
            os._exit(1)
        red = self._red(image)
        columns = np.flatnonzero(red.any(axis=0))
        groups = np.split(columns, np.flatnonzero(np.diff(columns) > 2) + 1) if len(columns) else []
        boxes = []
        for group in groups:
            rows = np.flatnonzero(red[:, group].any(axis=1))
            boxes.append(Box(group[0], rows[0], group[-1] + 1, rows[-1] + 1))
        return [box for box in boxes if box.area >= 64]

    def predict_landmarks(self, image, box):
        grow = (box.right - box.left) * 0.2
        left, top = (max(0, round(edge - grow)) for edge in (box.left, box.top))
        part = self._red(image[top : round(box.bottom + grow), left : round(box.right + grow)])
        if part.any():  # otherwise the points are placed in the box anyway, as landmark regression does
            columns, rows = np.flatnonzero(part.any(axis=0)), np.flatnonzero(part.any(axis=1))
            box = Box(left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        size = np.array([box.right - box.left, box.bottom - box.top])
        return (np.array([box.left, box.top]) + TEMPLATE * size - 0.5).astype(np.float32)

    def _red(self, image):
        image = image.astype(int)
        return image[..., 0] - image[..., 1:].max(axis=-1) > self.config.threshold


def draw(*boxes: tuple[int, int, int, int], colour: tuple[int, int, int] = (60, 60, 60)) -> np.ndarray:
    """Draw a frame with a face in each box (left, top, right, bottom)."""
    image = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = RED
    return image


def draw_moving_face(frames: int, *, hidden: Iterable[int] = ()) -> list[np.ndarray]:
    """Draw a face that moves slowly to the right, and is absent from the `hidden` frames."""
    absent = set(hidden)
    return [draw() if n in absent else draw((20 + n // 2, 30, 60 + n // 2, 74)) for n in range(frames)]


def write_video(path: Path, images: Sequence[np.ndarray], *, fps: int = 25, keyframe_every: int = 250) -> Path:
    """Write RGB frames as an H.264 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": "10", "preset": "ultrafast", "g": str(keyframe_every), "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        height, width = images[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path
