"""The template head: a grid of vertices over the face, with its landmarks.

Units: 1 is the distance between the eye centres (about 63 mm). x to the viewer's right, y down, z towards the viewer;
the origin lies between the eyes, at the depth of the ears. The proportions of the front view are the medians of dlib's
landmarks on photographs of 33 men, made symmetric; depths are anatomical averages.

The skin is one grid of COLUMNS x ROWS cells. A vertex has *chart* coordinates, where it is painted (eyes wide open, mouth
ajar), and a neutral position (eyes and mouth at rest). The eyes and the mouth are holes of the chart, transparent in the
texture; lids and lips open and close by moving the skin around them.
"""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Array = NDArray[np.floating[Any]]

COLUMNS, ROWS = 64, 72  # cells of the skin
CELL = 8  # texture pixels along a side of a cell
SIDE = np.deg2rad(125.0)  # the skin reaches from -SIDE to +SIDE around the vertical axis

EYE_X, EYE_Y, EYE_HALF = 0.494, 0.012, 0.184  # centre and half width of an eye opening
UPPER_LID, LOWER_LID = 0.086, 0.034  # height of the resting lids above and below the line between the corners
LID_ROOM = 1.4  # eye opening of the chart, relative to the one at rest
MOUTH_Y, MOUTH_HALF = 1.015, 0.415  # line of the closed lips
MOUTH_GAP = 0.16  # height of the mouth's hole in the chart

_PROFILE_Y = np.array(
    [-1.86, -1.8, -1.55, -1.2, -0.8, -0.4, 0.04, 0.335, 0.633, 0.932, 1.213, 1.451, 1.658, 1.81, 1.87, 1.9]
)
_PROFILE_WIDTH = np.array(
    [0.0, 0.32, 0.74, 1.0, 1.13, 1.16, 1.14, 1.115, 1.085, 1.04, 0.94, 0.77, 0.56, 0.31, 0.12, 0.0]
)
_PROFILE_CENTRE = np.array([-0.1, -0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.03, 0.12, 0.35, 0.62, 0.9, 1.0, 1.05])
_PROFILE_FRONT = np.array([0.0, 0.35, 0.82, 1.15, 1.34, 1.4, 1.36, 1.3, 1.28, 1.3, 1.34, 1.38, 1.4, 1.34, 1.2, 1.06])


def interpolate_profile(y: Array, values: Array) -> Array:
    """Interpolate `values`, given at the heights _PROFILE_Y, smoothly at heights `y`."""
    return PchipInterpolator(_PROFILE_Y, values, extrapolate=False)(np.clip(y, _PROFILE_Y[0], _PROFILE_Y[-1]))


def get_half_width(y: Array) -> Array:
    """Half width of the head at height `y`."""
    return interpolate_profile(y, _PROFILE_WIDTH)


def blob(x: Array, y: Array, *, at: tuple[float, float], size: tuple[float, float]) -> Array:
    """A Gaussian bump of height 1."""
    return np.exp(-0.5 * (((x - at[0]) / size[0]) ** 2 + ((y - at[1]) / size[1]) ** 2))


def blob_pair(x: Array, y: Array, *, at: tuple[float, float], size: tuple[float, float]) -> Array:
    """A Gaussian bump of height 1, on both sides of the face."""
    return blob(np.abs(x), y, at=at, size=size)


def smoothstep(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def get_mouth_edges(x: Array) -> tuple[Array, Array]:
    """Chart heights of the upper and lower inner lip at `x`; beyond the corners they diverge, to spread the motion."""
    inside = np.clip(1.0 - (x / MOUTH_HALF) ** 2, 0.0, None)
    beyond = 0.35 * np.clip(np.abs(x) - MOUTH_HALF, 0.0, None)
    upper = MOUTH_Y + 0.012 * inside**0.5 + 0.012 * np.exp(-((x / 0.09) ** 2))
    return upper - beyond, upper + MOUTH_GAP * inside**0.7 + beyond + 0.004


def get_eye_edges(x: Array) -> tuple[Array, Array]:
    """Chart heights of the upper and lower lid at `x`."""
    s = (np.abs(x) - EYE_X) / EYE_HALF
    inside = np.clip(1.0 - s**2, 0.0, None)
    middle = EYE_Y - 0.004 * s
    lean = 1.0 - 0.12 * s  # the upper lid is highest towards the nose
    return middle - LID_ROOM * UPPER_LID * lean * inside**0.8, middle + LID_ROOM * LOWER_LID * inside**0.9


def make_field(x: Array, dx: object = 0.0, dy: object = 0.0, dz: object = 0.0) -> Array:
    """Stack displacements, each a number or an array like `x` [V], to a field [V, 3]."""
    return np.stack(np.broadcast_arrays(np.asarray(dx), np.asarray(dy), np.asarray(dz), x)[:3], axis=-1)


@dataclass(frozen=True)
class Template:
    """The head that all identities are derived from. V = (ROWS + 1) * (COLUMNS + 1) vertices, row by row."""

    angle: Array  # [V] around the vertical axis, rad
    chart: Array  # [V, 2]
    neutral: Array  # [V, 3]
    below: Array  # [V] 0 on the side of the upper lip, 1 on that of the lower lip, linear across the hole of the mouth
    lids: Array  # [V, 2] downward displacement by a full blink of the upper and of the lower lid
    landmarks: Array  # [68, 2] grid coordinates (column, row)


def _make_grid() -> tuple[Array, Array]:
    a = np.linspace(-1.0, 1.0, COLUMNS + 1)
    angle = SIDE * (0.55 * a + 0.45 * a**3)
    knots = np.cumsum([0, 14, 20, 12, 18, 8])
    rows = np.interp(np.arange(ROWS + 1), knots, [-1.86, -0.5, 0.18, 0.82, 1.45, 1.9])
    rows[2:-2] = np.convolve(rows, np.ones(5) / 5, mode="valid")
    return angle, rows


def to_grid(points: Array) -> Array:
    """Convert chart points [..., 2] to grid coordinates (column, row) [..., 2]."""
    angle, rows = _make_grid()
    row = np.interp(points[..., 1], rows, np.arange(ROWS + 1))
    ratio = np.clip(points[..., 0] / np.maximum(get_half_width(points[..., 1]), 1e-3), -0.999, 0.999)
    return np.stack([np.interp(np.arcsin(ratio), angle, np.arange(COLUMNS + 1)), row], axis=-1).astype(np.float32)


def _compute_relief(x: Array, y: Array) -> Array:
    """Depth of the facial features above the smooth head."""
    ridge = np.interp(
        y,
        [-0.3, -0.1, 0.0, 0.2, 0.4, 0.53, 0.6, 0.68, 0.76, 0.84],
        [0, 0.03, 0.07, 0.24, 0.40, 0.52, 0.53, 0.40, 0.15, 0.04],
    )
    sharp = np.interp(y, [-0.2, 0.1, 0.45, 0.6, 0.8], [0.14, 0.11, 0.13, 0.15, 0.13])
    z = ridge * np.exp(-0.5 * (x / sharp) ** 2)
    z += 0.2 * blob_pair(x, y, at=(0.19, 0.62), size=(0.075, 0.085))
    z -= 0.17 * blob_pair(x, y, at=(0.5, 0.0), size=(0.22, 0.15)) + 0.1 * blob_pair(
        x, y, at=(0.24, 0.02), size=(0.08, 0.14)
    )
    z += 0.07 * blob_pair(x, y, at=(0.45, -0.3), size=(0.35, 0.1)) + 0.08 * blob_pair(
        x, y, at=(0.72, 0.42), size=(0.24, 0.2)
    )
    z += 0.14 * blob(x, y, at=(0.0, 1.05), size=(0.36, 0.26)) + 0.13 * blob(x, y, at=(0.0, 1.62), size=(0.26, 0.16))
    z += 0.06 * blob(x, y, at=(0.0, 0.99), size=(0.22, 0.035)) + 0.09 * blob(x, y, at=(0.0, 1.12), size=(0.22, 0.05))
    z -= 0.05 * blob(x, y, at=(0.0, 1.32), size=(0.26, 0.07))
    return z


def _compute_lid_weights(x: Array, y: Array) -> Array:
    """Downward displacement [V, 2] by a full blink of the upper and of the lower lid."""
    upper, lower = get_eye_edges(x)
    gap = lower - upper
    across = np.clip((y - upper) / np.maximum(gap, 1e-4), 0.0, 1.0)  # 0 at the upper edge, 1 at the lower
    above = 1.0 - smoothstep(upper - y, 0.0, 0.2)
    under = 1.0 - smoothstep(y - lower, 0.0, 0.22)
    return np.stack([gap * (1.0 - across) * above, -gap * across * under], axis=-1)


def _place_landmarks() -> Array:
    half = np.array(
        [  # the viewer's left half, front view
            *[(-1.14, 0.043), (-1.111, 0.335), (-1.081, 0.633), (-1.044, 0.932), (-0.944, 1.213), (-0.768, 1.451)],
            *[(-0.552, 1.658), (-0.304, 1.81), (0.0, 1.87)],
            *[(-0.921, -0.126), (-0.784, -0.265), (-0.581, -0.313), (-0.381, -0.315), (-0.181, -0.253)],
        ]
    )
    jaw = np.concatenate([half[:9], half[7::-1] * [-1, 1]])
    brows = np.concatenate([half[9:], half[:8:-1] * [-1, 1]])
    nose = np.array(
        [
            (0, -0.033),
            (0, 0.157),
            (0, 0.355),
            (0, 0.558),
            (-0.233, 0.668),
            (-0.126, 0.704),
            (0, 0.74),
            (0.126, 0.704),
            (0.233, 0.668),
        ]
    )
    s = np.array([-EYE_X - EYE_HALF, -0.566, -0.435, -EYE_X + EYE_HALF, -0.438, -0.569])
    upper, lower = get_eye_edges(s)
    eye = np.stack([s, np.array([upper[0], upper[1], upper[2], upper[3], lower[4], lower[5]])], axis=-1)
    mirrored_eye = eye[[3, 2, 1, 0, 5, 4]] * [-1, 1]
    return to_grid(np.concatenate([jaw, brows, nose, eye, mirrored_eye, get_lip_points()]))


def get_lip_points() -> Array:
    """Chart points of landmarks 48 to 67: the outer contour of the lips, then the inner one."""
    g = MOUTH_GAP
    outer_top = [(-MOUTH_HALF - 0.01, MOUTH_Y), (-0.27, 0.965), (-0.105, 0.925), (0.0, 0.945)]
    outer_low = [(0.29, 1.135 + 0.6 * g), (0.14, 1.195 + 0.95 * g), (0.0, 1.21 + g)]
    top = np.array(outer_top + [(-x, y) for x, y in outer_top[2::-1]])
    low = np.array(outer_low + [(-x, y) for x, y in outer_low[1::-1]])
    x = np.array([-MOUTH_HALF + 0.02, -0.125, 0.0, 0.125, MOUTH_HALF - 0.02, 0.13, 0.0, -0.13])
    upper, lower = get_mouth_edges(x)
    inner = np.stack([x, np.where(np.arange(8) < 5, upper, lower)], axis=-1)
    return np.concatenate([top, low, inner])


@lru_cache(maxsize=1)
def get_template() -> Template:
    """The template head, computed once per process."""
    angle, rows = _make_grid()
    phi, y = (a.ravel() for a in np.meshgrid(angle, rows))
    x = get_half_width(y) * np.sin(phi)
    upper, lower = get_mouth_edges(x)
    below = np.clip((y - upper) / (lower - upper), 0.0, 1.0)
    gap = MOUTH_GAP * np.clip(1.0 - (x / MOUTH_HALF) ** 2, 0.0, None) ** 0.7
    closing = gap * below * (1.0 - smoothstep(y, 1.4, 1.87))
    lids = _compute_lid_weights(x, y)
    rest = (LID_ROOM - 1.0) / LID_ROOM
    share = np.array([UPPER_LID, LOWER_LID]) / (UPPER_LID + LOWER_LID)
    neutral_y = y - closing + lids @ (rest * share)
    centre = interpolate_profile(y, _PROFILE_CENTRE)
    z = centre + (interpolate_profile(y, _PROFILE_FRONT) - centre) * np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** 0.9
    z += _compute_relief(x, neutral_y) * (np.cos(phi) > 0)
    return Template(
        angle=phi.astype(np.float32),
        chart=np.stack([x, y], -1).astype(np.float32),
        neutral=np.stack([x, neutral_y, z], -1).astype(np.float32),
        below=below.astype(np.float32),
        lids=lids.astype(np.float32),
        landmarks=_place_landmarks(),
    )
