"""Head pose from landmarks: the rotation of six points of an average face that explains where they are in the picture."""

from __future__ import annotations

import cv2
import numpy as np

POINTS = [30, 8, 36, 45, 48, 54]  # tip of the nose, chin, outer eye corners, corners of the mouth: of iBUG's 68
# Of an average head, in arbitrary units: x to the right of the picture, y down, z away from the camera.
HEAD = np.array(
    [(0, 0, 0), (0, 330, 65), (-225, -170, 135), (225, -170, 135), (-150, 150, 125), (150, 150, 125)], np.float64
)
FOCAL_LENGTH = 1.0  # in sides of the picture, the longer one: a view of 53 degrees


def estimate_head_pose(points: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Estimate (pitch, yaw, roll) [3] in degrees from landmarks [68, 2] in pixels; nan where they are unknown.

    Pitch is positive where the face looks down, yaw where it turns to the left of the picture, and roll where it tilts
    clockwise in the picture: rotations about x, y and z above, applied in this order.
    """
    known = points[POINTS].astype(np.float64)
    if not np.isfinite(known).all():
        return np.full(3, np.nan)
    focal = FOCAL_LENGTH * max(height, width)
    camera = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    try:
        is_solved, rotation, _ = cv2.solvePnP(HEAD, known, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:  # points on a line
        return np.full(3, np.nan)
    if not is_solved:
        return np.full(3, np.nan)
    matrix, _ = cv2.Rodrigues(rotation)
    pitch = np.arctan2(matrix[2, 1], matrix[2, 2])
    yaw = np.arctan2(-matrix[2, 0], np.hypot(matrix[0, 0], matrix[1, 0]))
    roll = np.arctan2(matrix[1, 0], matrix[0, 0])
    return np.degrees([pitch, yaw, roll])
