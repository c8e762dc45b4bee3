"""Optical flow as data: TV-L1 between a frame and a later one, small enough to be stored with every frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from facscale.data.augment import FLOW_STEP, FLOW_UNKNOWN

DOWNSCALE = 4  # side of the crop / side of the stored flow


def compute_tvl1(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Compute where each pixel of `before` is in `after`, both RGB uint8 [H, W, 3]: [H, W, 2] float32 pixels, x then y.

    Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007; OpenCV's
    implementation.
    """
    grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after))
    flow: np.ndarray = _get_solver().calc(*grey, None)
    return flow


def pack_flow(flow: np.ndarray) -> np.ndarray:
    """Pack flow [S, S, 2] as int8 [2 f f] in steps of `FLOW_STEP` pixels, on f = S / 4 points, x then y.

    Each point is the mean over 4 x 4 pixels, clipped to 16 pixels: detail below 4 pixels is lost, and rounding is off by
    half a step at most.
    """
    side = flow.shape[0] // DOWNSCALE
    means = cv2.resize(flow, (side, side), interpolation=cv2.INTER_AREA)
    return np.clip(np.round(means / FLOW_STEP), -127, 127).astype(np.int8).transpose(2, 0, 1).ravel()


def make_unknown_flow(size: int) -> np.ndarray:
    """Return what is stored for a frame without a later one; `size`: side of the crop in pixels."""
    return np.full(2 * (size // DOWNSCALE) ** 2, FLOW_UNKNOWN, np.int8)


@lru_cache(maxsize=1)
def _get_solver() -> Any:
    return cv2.optflow.createOptFlow_DualTVL1()
