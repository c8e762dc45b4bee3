"""No detection: every frame is an aligned crop of one face already (as in RAF-DB, or crops made elsewhere)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from facscale.ingest.detectors.base import LANDMARKS, Box, Detector, DetectorConfig


class NoneConfig(DetectorConfig):
    """Options of the detector `none`: there is nothing to follow, and a track of one frame is kept."""

    detect_every_s: Annotated[float, Field(ge=0, le=1)] = 0.0
    shortest_track_s: Annotated[float, Field(ge=0)] = 0.0


class CentredSquare(Detector):
    """The largest centred square of each frame; its landmarks are unknown (NaN)."""

    Config = NoneConfig

    def __init__(self, config: DetectorConfig) -> None:
        pass

    def detect(self, image: np.ndarray) -> list[Box]:
        """Return the square."""
        height, width = image.shape[:2]
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        return [Box(left, top, left + side, top + side)]

    def predict_landmarks(self, image: np.ndarray, box: Box) -> np.ndarray:  # noqa: ARG002
        """Return NaN for every point."""
        return np.full((LANDMARKS, 2), np.nan, np.float32)
