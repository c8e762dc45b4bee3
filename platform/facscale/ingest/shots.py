"""Finds shot cuts by a cheap cue: the mean difference between colour thumbnails of successive frames.

Thumbnails of 24 x 24 pixels hardly change when a head moves, and change all over when the camera does. Dissolves and
fades, in which successive frames differ little, are not found.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 24  # pixels
SAMPLED_SIDE = 96  # pixels; sampling a grid of this size first and averaging only that takes a tenth of the time
MIN_DIFFERENCE = 15.0  # grey levels (0 to 255), mean over pixels and channels; less is movement


class ShotCutDetector:
    """Compares each frame with the one before."""

    def __init__(self) -> None:
        self._previous: np.ndarray | None = None

    def is_cut(self, thumbnail: np.ndarray) -> bool:
        """Return whether a shot starts with the frame of this RGB thumbnail [SIDE, SIDE, 3]; never for the first."""
        previous, self._previous = self._previous, thumbnail.astype(np.int16)
        return previous is not None and float(np.abs(self._previous - previous).mean()) > MIN_DIFFERENCE


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an RGB image [H, W, 3] to [SIDE, SIDE, 3]; each pixel is the mean of a grid of samples in its area."""
    samples = cv2.resize(image, (SAMPLED_SIDE, SAMPLED_SIDE), interpolation=cv2.INTER_NEAREST)
    thumbnail: np.ndarray = cv2.resize(samples, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return thumbnail
