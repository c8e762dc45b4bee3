"""The interface between a face detector and the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from facscale.spec import Block

LANDMARKS = 68  # the iBUG 300-W mark-up, 0-based: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67


class Box(NamedTuple):
    """Corners in pixels; they may lie outside of the image."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """In square pixels."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def compute_iou(self, other: Box) -> float:
        """Compute the intersection over union, in [0, 1]."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        intersection = common.area if common.right > common.left and common.bottom > common.top else 0.0
        return intersection / (self.area + other.area - intersection) if intersection else 0.0


class DetectorConfig(Block):
    """The options of every detector. A detector's own Config adds to them; an unknown key is an error."""

    renamed: ClassVar[Mapping[str, str]] = {
        "detect_every": "detect_every_s and takes seconds (0.2 is every 5th frame at 25 frames/s)",
        "shortest_track": "shortest_track_s and takes seconds (0.2 is 5 frames at 25 frames/s)",
    }

    # The time between two detections, during which the landmarks are followed; 0: detect on every frame.
    detect_every_s: Annotated[float, Field(ge=0, le=1)] = 0.2
    shortest_track_s: Annotated[float, Field(ge=0)] = 0.2  # shorter tracks are mostly false detections


class Detector(ABC):
    """Detects faces and their landmarks. One object processes many videos, one after the other, in one process."""

    Config: ClassVar[type[DetectorConfig]] = DetectorConfig

    @abstractmethod
    def __init__(self, config: DetectorConfig) -> None:
        """Load weights here: it happens once in each worker."""

    @abstractmethod
    def detect(self, image: np.ndarray) -> list[Box]:
        """Detect the faces of an RGB image [H, W, 3] uint8."""

    @abstractmethod
    def predict_landmarks(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Predict the 68 points (x, y) [68, 2] float32 of the face in `box`, in pixels of `image`.

        A detector without landmarks returns NaN; the crop is then the box itself.
        """
