"""Optical flow as data: TV-L1 between a frame and a later one, small enough to be stored with every frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from facscale.data.augment import FLOW_STEP, FLOW_UNKNOWN

SHRINK = 4  # the stored side is this part of the crop's


def tvl1(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where each pixel of `before` is in `after`, both RGB uint8 [H, W, 3]: [H, W, 2] float32 pixels, x then y.

    Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007, as OpenCV has it.
    """
    grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after))
    found: np.ndarray = _solver().calc(*grey, None)
    return found


def packed(flow: np.ndarray) -> np.ndarray:
    """Flow [S, S, 2] as int8 [2 f f] of steps of `FLOW_STEP` pixels, on f = S / 4 points, x then y.

    Means over 4 x 4 pixels, within 16 pixels: what lies between them is lost, and half a step on average.
    """
    side = flow.shape[0] // SHRINK
    means = cv2.resize(flow, (side, side), interpolation=cv2.INTER_AREA)
    return np.clip(np.round(means / FLOW_STEP), -127, 127).astype(np.int8).transpose(2, 0, 1).ravel()


def unknown(size: int) -> np.ndarray:
    """What is stored where there is no later frame; `size`: the crop's side."""
    return np.full(2 * (size // SHRINK) ** 2, FLOW_UNKNOWN, np.int8)


@lru_cache(maxsize=1)
def _solver() -> Any:
    return cv2.optflow.createOptFlow_DualTVL1()
