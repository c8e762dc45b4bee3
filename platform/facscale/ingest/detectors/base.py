"""The contract between a face detector and the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import PositiveInt

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

    def overlap(self, other: Box) -> float:
        """Intersection over union, in [0, 1]."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        shared = common.area if common.right > common.left and common.bottom > common.top else 0.0
        return shared / (self.area + other.area - shared) if shared else 0.0


class DetectorConfig(Block):
    """What every detector can be told. A detector's own Config adds to it; an unknown key is an error."""

    detect_every: PositiveInt = (
        5  # look for faces in each n-th frame and follow the landmarks in between; 1: in every one
    )
    shortest_track: PositiveInt = 5  # frames; what is shorter is mostly something that is no face


class Detector(ABC):
    """Finds faces and their landmarks. One object serves many videos, one after the other, in one process."""

    Config: ClassVar[type[DetectorConfig]] = DetectorConfig

    @abstractmethod
    def __init__(self, config: DetectorConfig) -> None:
        """Load weights here: it happens once in each worker."""

    @abstractmethod
    def detect(self, image: np.ndarray) -> list[Box]:
        """The faces of an RGB image [H, W, 3] uint8."""

    @abstractmethod
    def landmarks(self, image: np.ndarray, box: Box) -> np.ndarray:
        """The 68 points (x, y) [68, 2] float32 of the face in `box`, in pixels of `image`.

        All NaN from a detector that finds none: the crop is then the box itself.
        """
