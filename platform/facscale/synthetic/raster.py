"""Rasterizes grids of quads: which quad covers each pixel, and which texel it shows."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.anatomy import (
    CELL,
    EYE_HALF,
    EYE_X,
    MOUTH_HALF,
    Array,
    get_eye_edges,
    get_mouth_edges,
    get_template,
)
from facscale.synthetic.canvas import BEHIND, SKIN, Patch, get_vertex_slices

_FRACTION = 4  # bits of sub-pixel precision of cv2's drawing


@dataclass(frozen=True)
class Quads:
    """The quads of some patches."""

    corners: NDArray[np.int64]  # [Q, 4] vertices, clockwise from the upper left
    origin: Array  # [Q, 2] x, y of the first corner in the atlas, in texels


def list_quads(patches: tuple[Patch, ...]) -> Quads:
    """List all quads of `patches`, in order."""
    start, corners, origin = get_vertex_slices(), [], []
    for patch in patches:
        c, r = (a.ravel() for a in np.meshgrid(np.arange(patch.columns), np.arange(patch.rows)))
        first = start[patch.name].start + r * (patch.columns + 1) + c
        corners.append(np.stack([first, first + 1, first + patch.columns + 2, first + patch.columns + 1], axis=-1))
        origin.append(np.stack([patch.left + c, patch.top + r], axis=-1) * CELL)
    return Quads(np.concatenate(corners), np.concatenate(origin).astype(np.float32))


def _find_holes() -> NDArray[np.bool_]:
    """Which quads of the skin [Q] lie entirely inside the opening of an eye or of the mouth."""
    chart = get_template().chart[SKIN_QUADS.corners]
    x, y = chart[..., 0], chart[..., 1]
    eye, mouth = get_eye_edges(x), get_mouth_edges(x)
    open_eye = (np.abs(np.abs(x) - EYE_X) < EYE_HALF + 0.03) & (y >= eye[0] - 0.012) & (y <= eye[1] + 0.012)
    open_mouth = (np.abs(x) < MOUTH_HALF + 0.02) & (y >= mouth[0] - 0.012) & (y <= mouth[1] + 0.012)
    return np.asarray(open_eye.all(1) | open_mouth.all(1))


SKIN_QUADS, BEHIND_QUADS = list_quads((SKIN,)), list_quads(BEHIND)
_HOLES = _find_holes()


def draw_quads(quads: Quads, points: Array, *, depth: Array | None, canvas: NDArray[np.int32]) -> None:
    """Write the index of the frontmost quad into every pixel of `canvas` [H, W] that a quad covers.

    `points` [N, 2] are the vertices in pixels. With `depth` [N], quads that face away are skipped and distant quads are
    drawn first; without it, all quads are drawn in the order of the list.
    """
    corners = points[quads.corners]
    order = np.arange(len(corners))
    if depth is not None:
        a, b = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
        area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        # Quads of a hole must be this large, so that closed lids and lips show no slit.
        order = np.flatnonzero(area > np.where(_HOLES, 0.7 * np.abs(a).max(1), 0.0))
        order = order[np.argsort(depth[quads.corners[order]].sum(1), kind="stable")]
    fixed = np.round(corners[order] * (1 << _FRACTION)).astype(np.int32)
    fill = cv2.fillConvexPoly
    for index, polygon in zip(order.tolist(), fixed, strict=True):
        fill(canvas, polygon, index, 8, _FRACTION)


def fit_texel_maps(quads: Quads, points: Array) -> Array:
    """Fit the map from pixels to texels of each quad, by least squares over its corners.

    Returns a to f [Q, 6]: inside the quad, atlas x = a + b*px + c*py and y = d + e*px + f*py.
    """
    p = points[quads.corners]
    middle = p.mean(1)
    right = (p[:, 1] + p[:, 2] - p[:, 0] - p[:, 3]) / 2
    down = (p[:, 2] + p[:, 3] - p[:, 0] - p[:, 1]) / 2
    det = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]
    det = CELL / np.where(np.abs(det) < 1e-3, 1e-3, det)
    b, c, e, f = down[:, 1] * det, -down[:, 0] * det, -right[:, 1] * det, right[:, 0] * det
    x0, y0 = quads.origin.T + CELL / 2
    a, d = x0 - b * middle[:, 0] - c * middle[:, 1], y0 - e * middle[:, 0] - f * middle[:, 1]
    return np.stack([a, b, c, d, e, f], axis=-1).astype(np.float32)
