"""The similarity transform that brings the eyes to fixed places of a square, and the crop that it makes.

Pixel coordinates: (0, 0) is the centre of the first pixel, x to the right, y down.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from facscale.spec.pipelines import Crop

RIGHT_EYE = slice(36, 42)  # the subject's right: on the left of the image
LEFT_EYE = slice(42, 48)
CLOSEST = 2.0  # pixels between the eyes below which the points are no face
OVERSAMPLING = 8  # at most, when a large face is reduced


def eyes(points: np.ndarray) -> np.ndarray:
    """Centres [2, 2] (image-left eye, image-right eye) from 68 landmarks [68, 2]."""
    return np.array([points[RIGHT_EYE].mean(axis=0), points[LEFT_EYE].mean(axis=0)], np.float64)


def similarity(centres: np.ndarray, crop: Crop) -> np.ndarray | None:
    """The matrix [2, 3] from frame pixels to crop pixels that puts the eye centres [2, 2] where `crop` wants them.

    None where the eyes are too close together to be a face's.
    """
    vector = centres[1] - centres[0]
    distance = float(np.hypot(*vector))
    if not distance >= CLOSEST:
        return None
    scale = crop.eyes_distance * crop.size / distance
    cosine, sine = scale * vector / distance
    turn = np.array([[cosine, sine], [-sine, cosine]])
    middle = np.array([0.5 * crop.size, crop.eyes_y * crop.size]) - 0.5
    return np.hstack([turn, (middle - turn @ centres.mean(axis=0))[:, None]])


def square(box: tuple[float, float, float, float], crop: Crop) -> np.ndarray:
    """The matrix [2, 3] that brings a box (left, top, right, bottom) to the crop, by its centre and its longer side."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    scale = crop.size / side
    corner = np.array([left + right - side, top + bottom - side]) / 2
    return np.hstack([np.eye(2) * scale, (scale * (0.5 - corner) - 0.5)[:, None]])


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points [N, 2] under a matrix [2, 3]."""
    result: np.ndarray = points @ matrix[:, :2].T + matrix[:, 2]
    return result


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The square [size, size, 3] of an RGB image [H, W, 3] under a similarity; the image's edge goes on outside of it.

    Where the image is reduced, more pixels are drawn than needed and averaged: plain interpolation would skip some.
    """
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    finer = min(OVERSAMPLING, max(1, round(1 / scale))) if scale > 0 else 1
    fine = matrix * finer
    fine[:, 2] += (finer - 1) / 2
    drawn: np.ndarray = cv2.warpAffine(
        image, fine, (size * finer, size * finer), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if finer > 1:
        drawn = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)
    return drawn
