"""Where everything is in a frame: action units, lids, lips, eyes and head pose moved into place and projected."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from facscale.synthetic import parts
from facscale.synthetic.actions import AUS, movements
from facscale.synthetic.anatomy import (
    CELL,
    COLUMNS,
    EYE_X,
    EYE_Y,
    LID_ROOM,
    MOUTH_HALF,
    ROWS,
    Array,
    mouth_edges,
    template,
    to_grid,
)
from facscale.synthetic.canvas import BEHIND, SKIN, offsets
from facscale.synthetic.identity import Identity
from facscale.synthetic.motion import Script
from facscale.synthetic.skin import hair_mask

CAMERA = 16.0  # distance of the camera, in eye distances
ZOOM = 0.215  # one eye distance, as a share of the picture's side
CENTRE = (0.5, 0.47)  # of the picture: where the point between eyes and mouth comes to lie
NECK = np.array([0.0, 1.3, -0.3], np.float32)  # the head turns about this point
_AT = offsets()


@dataclass(frozen=True)
class Figure:
    """One frame's vertices: `space` [N, 3] turned, in eye distances; `points` [N, 2] in pixels of the picture."""

    space: Array
    points: Array
    mouth_open: float = 1.0  # how much light falls between the lips, 0..1


def rotation(*, yaw: float, pitch: float, roll: float) -> Array:
    """Positive: yaw to the viewer's right, pitch down, roll clockwise."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def _weights(grid: Array) -> tuple[NDArray[np.int64], Array]:
    """Skin vertices [n, 4] and bilinear weights [n, 4] of grid coordinates [n, 2]."""
    c = np.clip(np.floor(grid[:, 0]).astype(np.int64), 0, COLUMNS - 1)
    r = np.clip(np.floor(grid[:, 1]).astype(np.int64), 0, ROWS - 1)
    s, t = grid[:, 0] - c, grid[:, 1] - r
    first = r * (COLUMNS + 1) + c
    index = np.stack([first, first + 1, first + COLUMNS + 2, first + COLUMNS + 1], axis=-1)
    return index, np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=-1).astype(np.float32)


Marks = tuple[NDArray[np.int64], Array]  # skin vertices [n, 4] and weights [n, 4]
Edges = tuple[Array, Marks, Marks]  # x [n], the edge above, the edge below


class Body:
    """One person's geometry: everything that stays the same over a clip."""

    def __init__(self, who: Identity) -> None:
        t, m = template(), movements()
        self.who = who
        hair = gaussian_filter(hair_mask(who), 9.0)[::CELL, ::CELL].ravel()
        out = t.neutral - np.array([0, -0.3, 0], np.float32)
        out[:, 2] *= 0.6
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        self.rest = t.neutral + who.shape + out * (hair * who.volume)[:, None]
        self.fields = (m.fields * (who.gain[:, None, None] / 5)).reshape(len(AUS), -1)
        self.behind = parts.shapes(who)
        self.marks = _weights(t.landmarks)
        self._lips = self._edges(mouth_edges, np.linspace(-0.92, 0.92, 13) * MOUTH_HALF)
        start = {p.name: _AT[p.name].start - SKIN.vertices for p in BEHIND}
        self.part = {p.name: slice(start[p.name], start[p.name] + p.vertices) for p in BEHIND}
        shift = self.at(self.marks, self.rest) - self.at(self.marks, t.neutral)
        self.eyes = [np.array([side * EYE_X, EYE_Y, 0]) + shift[i : i + 6].mean(0) for side, i in ((-1, 36), (1, 42))]
        depth = [self.at(self.marks, self.rest)[i : i + 6, 2].mean() for i in (36, 42)]
        for eye, z in zip(self.eyes, depth, strict=True):
            eye[2] = z + 0.05 - parts.EYEBALL
        self.mouth_shift = shift[48:].mean(0).astype(np.float32) * [1, 1, 0]

    @staticmethod
    def at(marks: Marks, vertices: Array) -> Array:
        """Interpolate `vertices` [V, D] at `marks`: [n, D]."""
        return np.einsum("nk,nkd->nd", marks[1], vertices[marks[0]])

    @staticmethod
    def _edges(edges: Callable[[Array], tuple[Array, Array]], x: Array) -> Edges:
        upper, lower = edges(x)
        return x, _weights(to_grid(np.stack([x, upper], -1))), _weights(to_grid(np.stack([x, lower], -1)))

    def skin(self, *, intensities: Array, pucker: float, blink: float) -> Array:
        """Vertices [V, 3] of the skin, before the head turns."""
        t, m = template(), movements()
        v = self.rest + (intensities @ self.fields).reshape(-1, 3) + pucker * m.pucker
        close = intensities @ m.lids / 5
        lower = float(np.clip(close[1], 0.0, 0.5))
        upper = float(np.clip(self.who.lid_rest + close[0], -0.27, 0.86 - lower))
        upper += blink * (1.0 - lower - upper)
        v[:, 1] += t.lids @ np.array([upper, lower], np.float32) / LID_ROOM
        return self._part_lips(v)

    def _part_lips(self, v: Array) -> Array:
        """Lips touch, they do not pass through each other."""
        x, upper, lower = self._lips
        overlap = np.clip(self.at(upper, v)[:, 1] - self.at(lower, v)[:, 1], 0, None)
        if overlap.max() > 1e-4:
            t = template()
            push = np.interp(t.chart[:, 0], x, overlap, left=0, right=0)
            near = np.exp(-(((t.neutral[:, 1] - 1.05) / 0.25) ** 2))
            v[:, 1] += push * (t.below - 0.4) * near
        return v

    def place(self, script: Script, frame: int, *, size: int) -> Figure:
        """Everything in its place in `frame` of the script."""
        a = script.intensities[frame]
        skin = self.skin(intensities=a, pucker=float(script.pucker[frame]), blink=float(script.blink[frame]))
        rest = self.behind.copy()
        jaw = float(a[AUS.index(26)]) / 5
        rest[self.part["lower teeth"], 1] += 0.33 * jaw
        rest[self.part["mouth"], 1] += np.linspace(0, 0.36 * jaw, 7).repeat(9).astype(np.float32)
        for name in ("mouth", "lower teeth", "upper teeth"):
            rest[self.part[name]] += self.mouth_shift
        turn = rotation(yaw=float(script.gaze[frame, 0]), pitch=float(script.gaze[frame, 1]), roll=0.0)
        for name, centre in zip(("eye left", "eye right"), self.eyes, strict=True):
            rest[self.part[name]] = rest[self.part[name]] @ turn.T + centre
        gap = (self.at(self._lips[2], skin) - self.at(self._lips[1], skin))[:, 1].max()
        return self._project(np.concatenate([skin, rest]), script.pose[frame], size=size, gap=float(gap))

    def _project(self, vertices: Array, pose: Array, *, size: int, gap: float) -> Figure:
        yaw, pitch, roll, x, y, scale = (float(p) for p in pose)
        space = (vertices - NECK) @ rotation(yaw=yaw, pitch=pitch, roll=roll).T + NECK
        bust = _AT["bust"]
        space[bust] = (vertices[bust] - NECK) @ rotation(yaw=0.25 * yaw, pitch=0.0, roll=0.2 * roll).T + NECK
        space[:, :2] += [x, y]
        factor = ZOOM * size * scale * CAMERA / (CAMERA - space[:, 2:] + 1.3)
        middle = np.array([0.0, 0.55], np.float32)
        points = (space[:, :2] - middle) * factor + np.array(CENTRE, np.float32) * size
        return Figure(space.astype(np.float32), points.astype(np.float32), min(1.0, 0.1 + gap / 0.09))

    def landmarks(self, figure: Figure) -> Array:
        """[68, 2] pixels; the jaw's points slide to the outline on the side that turns away, as annotators place them."""
        skin = figure.points[: SKIN.vertices]
        out = self.at(self.marks, skin)
        grid = skin.reshape(ROWS + 1, COLUMNS + 1, 2)
        edge = np.abs(template().angle[: COLUMNS + 1]) < np.deg2rad(82)
        for k in (*range(7), *range(10, 17)):
            row = template().landmarks[k, 1]
            r, f = int(row), row - int(row)
            ring = ((1 - f) * grid[r] + f * grid[r + 1])[edge]
            out[k] = ring[ring[:, 0].argmin() if k < 8 else ring[:, 0].argmax()]
        return out
