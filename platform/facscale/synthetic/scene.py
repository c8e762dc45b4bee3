"""The geometry of a frame: action units, lids, lips, eyes and head pose applied to a person, and projected."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from facscale.synthetic import parts
from facscale.synthetic.actions import AUS, get_au_motion
from facscale.synthetic.anatomy import (
    CELL,
    COLUMNS,
    EYE_X,
    EYE_Y,
    LID_ROOM,
    MOUTH_HALF,
    ROWS,
    Array,
    get_mouth_edges,
    get_template,
    to_grid,
)
from facscale.synthetic.canvas import BEHIND, SKIN, get_vertex_slices
from facscale.synthetic.identity import Identity
from facscale.synthetic.motion import MotionSequence
from facscale.synthetic.skin import make_hair_mask

CAMERA = 16.0  # distance of the camera, in eye distances
ZOOM = 0.215  # one eye distance, as a share of the image's side
CENTRE = (0.5, 0.47)  # image position of the point between eyes and mouth, as a share of the side
NECK = np.array([0.0, 1.3, -0.3], np.float32)  # pivot of the head
_AT = get_vertex_slices()


@dataclass(frozen=True)
class FrameGeometry:
    """The vertices of a person in a frame."""

    space: Array  # [N, 3] after rotation, in eye distances
    points: Array  # [N, 2] pixels
    mouth_open: float = 1.0  # share of light that falls between the lips


def make_rotation(*, yaw: float, pitch: float, roll: float) -> Array:
    """Rotation matrix [3, 3] of angles in rad; positive: yaw to the viewer's right, pitch down, roll clockwise."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def _compute_weights(grid: Array) -> tuple[NDArray[np.int64], Array]:
    """The four skin vertices around grid coordinates [n, 2], and their bilinear weights, each [n, 4]."""
    c = np.clip(np.floor(grid[:, 0]).astype(np.int64), 0, COLUMNS - 1)
    r = np.clip(np.floor(grid[:, 1]).astype(np.int64), 0, ROWS - 1)
    s, t = grid[:, 0] - c, grid[:, 1] - r
    first = r * (COLUMNS + 1) + c
    index = np.stack([first, first + 1, first + COLUMNS + 2, first + COLUMNS + 1], axis=-1)
    return index, np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=-1).astype(np.float32)


GridPoints = tuple[NDArray[np.int64], Array]  # skin vertices [n, 4] and weights [n, 4]
Edges = tuple[Array, GridPoints, GridPoints]  # x [n], the upper edge, the lower edge


class Body:
    """The geometry of a person."""

    def __init__(self, identity: Identity) -> None:
        t, m = get_template(), get_au_motion()
        self.identity = identity
        hair = gaussian_filter(make_hair_mask(identity), 9.0)[::CELL, ::CELL].ravel()
        outwards = t.neutral - np.array([0, -0.3, 0], np.float32)
        outwards[:, 2] *= 0.6
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        self.rest = t.neutral + identity.shape + outwards * (hair * identity.volume)[:, None]
        self.fields = (m.fields * (identity.gain[:, None, None] / 5)).reshape(len(AUS), -1)
        self.behind = parts.make_shapes(identity)
        self.marks = _compute_weights(t.landmarks)
        self._lips = self._locate_edges(get_mouth_edges, np.linspace(-0.92, 0.92, 13) * MOUTH_HALF)
        start = {p.name: _AT[p.name].start - SKIN.vertices for p in BEHIND}
        self.ranges = {p.name: slice(start[p.name], start[p.name] + p.vertices) for p in BEHIND}
        shift = self.interpolate(self.marks, self.rest) - self.interpolate(self.marks, t.neutral)
        self.eyes = [np.array([side * EYE_X, EYE_Y, 0]) + shift[i : i + 6].mean(0) for side, i in ((-1, 36), (1, 42))]
        depth = [self.interpolate(self.marks, self.rest)[i : i + 6, 2].mean() for i in (36, 42)]
        for eye, z in zip(self.eyes, depth, strict=True):
            eye[2] = z + 0.05 - parts.EYEBALL
        self.mouth_shift = shift[48:].mean(0).astype(np.float32) * [1, 1, 0]

    @staticmethod
    def interpolate(points: GridPoints, vertices: Array) -> Array:
        """Interpolate `vertices` [V, D] at n points: [n, D]."""
        return np.einsum("nk,nkd->nd", points[1], vertices[points[0]])

    @staticmethod
    def _locate_edges(edges: Callable[[Array], tuple[Array, Array]], x: Array) -> Edges:
        upper, lower = edges(x)
        return (
            x,
            _compute_weights(to_grid(np.stack([x, upper], -1))),
            _compute_weights(to_grid(np.stack([x, lower], -1))),
        )

    def deform_skin(self, *, intensities: Array, pucker: float, blink: float) -> Array:
        """Vertices [V, 3] of the skin before the rotation of the head."""
        t, m = get_template(), get_au_motion()
        v = self.rest + (intensities @ self.fields).reshape(-1, 3) + pucker * m.pucker
        close = intensities @ m.lids / 5
        lower = float(np.clip(close[1], 0.0, 0.5))
        upper = float(np.clip(self.identity.lid_rest + close[0], -0.27, 0.86 - lower))
        upper += blink * (1.0 - lower - upper)
        v[:, 1] += t.lids @ np.array([upper, lower], np.float32) / LID_ROOM
        return self._separate_lips(v)

    def _separate_lips(self, v: Array) -> Array:
        """Push lips that overlap apart until they touch."""
        x, upper, lower = self._lips
        overlap = np.clip(self.interpolate(upper, v)[:, 1] - self.interpolate(lower, v)[:, 1], 0, None)
        if overlap.max() > 1e-4:
            t = get_template()
            push = np.interp(t.chart[:, 0], x, overlap, left=0, right=0)
            near = np.exp(-(((t.neutral[:, 1] - 1.05) / 0.25) ** 2))
            v[:, 1] += push * (t.below - 0.4) * near
        return v

    def pose(self, motion: MotionSequence, frame: int, *, size: int) -> FrameGeometry:
        """Move all vertices as in `frame` of a motion sequence, and project them to an image of `size` pixels."""
        a = motion.intensities[frame]
        skin = self.deform_skin(intensities=a, pucker=float(motion.pucker[frame]), blink=float(motion.blink[frame]))
        behind = self.behind.copy()
        jaw = float(a[AUS.index(26)]) / 5
        behind[self.ranges["lower teeth"], 1] += 0.33 * jaw
        behind[self.ranges["mouth"], 1] += np.linspace(0, 0.36 * jaw, 7).repeat(9).astype(np.float32)
        for name in ("mouth", "lower teeth", "upper teeth"):
            behind[self.ranges[name]] += self.mouth_shift
        turn = make_rotation(yaw=float(motion.gaze[frame, 0]), pitch=float(motion.gaze[frame, 1]), roll=0.0)
        for name, centre in zip(("eye left", "eye right"), self.eyes, strict=True):
            behind[self.ranges[name]] = behind[self.ranges[name]] @ turn.T + centre
        gap = (self.interpolate(self._lips[2], skin) - self.interpolate(self._lips[1], skin))[:, 1].max()
        return self._project(np.concatenate([skin, behind]), motion.pose[frame], size=size, gap=float(gap))

    def _project(self, vertices: Array, pose: Array, *, size: int, gap: float) -> FrameGeometry:
        yaw, pitch, roll, x, y, scale = (float(p) for p in pose)
        space = (vertices - NECK) @ make_rotation(yaw=yaw, pitch=pitch, roll=roll).T + NECK
        bust = _AT["bust"]
        space[bust] = (vertices[bust] - NECK) @ make_rotation(yaw=0.25 * yaw, pitch=0.0, roll=0.2 * roll).T + NECK
        space[:, :2] += [x, y]
        factor = ZOOM * size * scale * CAMERA / (CAMERA - space[:, 2:] + 1.3)
        middle = np.array([0.0, 0.55], np.float32)
        points = (space[:, :2] - middle) * factor + np.array(CENTRE, np.float32) * size
        return FrameGeometry(space.astype(np.float32), points.astype(np.float32), min(1.0, 0.1 + gap / 0.09))

    def locate_landmarks(self, geometry: FrameGeometry) -> Array:
        """Locate the landmarks [68, 2] in pixels.

        On the side that turns away, those of the jaw slide to the outline, where annotators put them.
        """
        skin = geometry.points[: SKIN.vertices]
        out = self.interpolate(self.marks, skin)
        grid = skin.reshape(ROWS + 1, COLUMNS + 1, 2)
        edge = np.abs(get_template().angle[: COLUMNS + 1]) < np.deg2rad(82)
        for k in (*range(7), *range(10, 17)):
            row = get_template().landmarks[k, 1]
            r, f = int(row), row - int(row)
            ring = ((1 - f) * grid[r] + f * grid[r + 1])[edge]
            out[k] = ring[ring[:, 0].argmin() if k < 8 else ring[:, 0].argmax()]
        return out
