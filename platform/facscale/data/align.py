"""Face alignment: the similarity transform that moves the eyes to fixed positions of a square crop, and the warp.

Pixel coordinates: (0, 0) is the centre of the first pixel, x points right, y points down.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from facscale.spec.pipelines import Crop

RIGHT_EYE = slice(36, 42)  # the subject's right eye, on the left of the image
LEFT_EYE = slice(42, 48)
MIN_EYE_DISTANCE = 2.0  # pixels; landmarks with a smaller distance between the eyes are not a face
MAX_OVERSAMPLING = 8  # when a large face is reduced


def locate_eyes(points: np.ndarray) -> np.ndarray:
    """Return the centres [2, 2] of both eyes (image-left, image-right) from 68 landmarks [68, 2]."""
    return np.array([points[RIGHT_EYE].mean(axis=0), points[LEFT_EYE].mean(axis=0)], np.float64)


def fit_similarity(centres: np.ndarray, crop: Crop) -> np.ndarray | None:
    """Return the matrix [2, 3] from frame pixels to crop pixels that puts the eye centres [2, 2] where `crop` has them.

    Returns None where the eyes are closer together than MIN_EYE_DISTANCE.
    """
    vector = centres[1] - centres[0]
    distance = float(np.hypot(*vector))
    if not distance >= MIN_EYE_DISTANCE:
        return None
    scale = crop.eyes_distance * crop.size / distance
    cosine, sine = scale * vector / distance
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    padding = (crop.stored_size - crop.size) / 2
    target = np.array([0.5 * crop.size, crop.eyes_y * crop.size]) + padding - 0.5
    return np.hstack([rotation, (target - rotation @ centres.mean(axis=0))[:, None]])


def fit_box(box: tuple[float, float, float, float], crop: Crop) -> np.ndarray:
    """Return the matrix [2, 3] that maps a box (left, top, right, bottom) to the crop, by its centre and longer side.

    The box is the stored image: what others have cropped includes the margin, if `crop` has one.
    """
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    scale = crop.stored_size / side
    corner = np.array([left + right - side, top + bottom - side]) / 2
    return np.hstack([np.eye(2) * scale, (scale * (0.5 - corner) - 0.5)[:, None]])


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a matrix [2, 3] to points [N, 2]."""
    result: np.ndarray = points @ matrix[:, :2].T + matrix[:, 2]
    return result


def cut_face_square(image: np.ndarray, matrix: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """Cut the face square out of a stored image [S, S, 3]; returns it with the matrix [2, 3] from frame pixels to its own."""
    first = (crop.stored_size - crop.size) // 2
    shift = np.array([[0, 0, first], [0, 0, first]])
    return image[first : first + crop.size, first : first + crop.size], matrix - shift


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Warp an RGB image [H, W, 3] by a similarity matrix to [size, size, 3]; outside the image its edge is repeated.

    Where the image is reduced, more pixels than needed are sampled and then averaged, because plain interpolation would
    skip source pixels.
    """
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    factor = min(MAX_OVERSAMPLING, max(1, round(1 / scale))) if scale > 0 else 1
    fine = matrix * factor
    fine[:, 2] += (factor - 1) / 2
    warped: np.ndarray = cv2.warpAffine(
        image, fine, (size * factor, size * factor), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if factor > 1:
        warped = cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)
    return warped
