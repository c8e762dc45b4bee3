"""A rendered clip with its truth."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.anatomy import CELL, Array
from facscale.synthetic.motion import Script, script
from facscale.synthetic.raster import BEHIND_QUADS, SKIN_QUADS, Quads, texels
from facscale.synthetic.render import Cover, Painter, cast, covers
from facscale.synthetic.scene import Figure

Kind = Literal["all", "au", "pose"]


class Flow(NamedTuple):
    """Displacement [H, W, 2] in pixels, x then y, where it is defined [H, W], and where there is a person [H, W]."""

    displacement: Array
    valid: NDArray[np.bool_]
    person: NDArray[np.bool_]


class Change(NamedTuple):
    """A picture in which something has changed: its landmarks [68, 2], and from where each of its pixels comes."""

    landmarks: Array
    origin: Flow


@dataclass
class Clip:
    """T frames of one person."""

    frames: NDArray[np.uint8]  # [T, H, W, 3] RGB
    intensities: Array  # [T, 15] 0..5, in the order of AUS
    pose: Array  # [T, 6] yaw, pitch, roll (rad), x, y (eye distances), scale
    landmarks: Array  # [T, 68, 2] pixels, iBUG's order
    identity: int
    fps: float
    _painter: Painter = field(repr=False)
    _script: Script = field(repr=False)

    def flow(self, i: int, j: int, *, kind: Kind = "all") -> Flow:
        """Where what is seen at each pixel of frame `i` is in frame `j`.

        `kind="au"`: as if only the face had moved (action units, speech, lids, gaze), the head kept as in `i`;
        `kind="pose"`: as if only the head had. Not valid where it is hidden, or out of the picture, in `j`.
        """
        size = self.frames.shape[1]
        first = self._painter.body.place(self._script, i, size=size)
        second = self._painter.body.place(_mixed(self._script, i, j, kind), 0, size=size)
        return _flow(self._painter, first, second, size=size)

    def change(self, source: int, target: int, *, kind: Kind = "all") -> Change:
        """The picture that frame `source` becomes when `kind` alone (see `flow`) changes to that of frame `target`."""
        size = self.frames.shape[1]
        first = self._painter.body.place(_mixed(self._script, source, target, kind), 0, size=size)
        second = self._painter.body.place(self._script, source, size=size)
        return Change(self._painter.body.landmarks(first), _flow(self._painter, first, second, size=size))


def _mixed(s: Script, i: int, j: int, kind: Kind) -> Script:
    """A script of one frame whose face and head come from frames i or j."""
    face, head = (j if kind != "pose" else i), (j if kind != "au" else i)
    cut = {name: getattr(s, name)[face : face + 1] for name in ("intensities", "pucker", "blink", "gaze")}
    return replace(s, **cut, **{name: getattr(s, name)[head : head + 1] for name in ("pose", "light", "strength")})


def _visible(painter: Painter, what: Cover, points: Array) -> tuple[NDArray[np.bool_], Array]:
    """Where the skin is what one sees (not a hole), and atlas coordinates of what one sees [H, W, 2]."""
    rows, columns = np.indices(what.skin.shape)
    seen = []
    for which, canvas in ((SKIN_QUADS, what.skin), (BEHIND_QUADS, what.behind)):
        k = texels(which, points)[np.maximum(canvas, 0)]
        at = np.stack(
            [k[..., 0] + k[..., 1] * columns + k[..., 2] * rows, k[..., 3] + k[..., 4] * columns + k[..., 5] * rows], -1
        )
        low = which.origin[np.maximum(canvas, 0)]
        seen.append(np.clip(at, low, low + CELL))
    x, y = np.round(seen[0]).astype(int).transpose(2, 0, 1)
    opaque = painter.atlas[np.clip(y, 0, None), np.clip(x, 0, None), 3] > 127
    skin = (what.skin >= 0) & opaque
    return skin, np.where(skin[..., None], seen[0], seen[1])


def _moved(which: Quads, canvas: NDArray[np.int32], at: Array, points: Array) -> Array:
    """Positions [H, W, 2], given other vertex `points`, of what lies at atlas coordinates `at`."""
    index = np.maximum(canvas, 0)
    s, t = np.moveaxis((at - which.origin[index]) / CELL, -1, 0)
    corners = points[which.corners[index]]
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=-1)
    return np.einsum("hwk,hwkd->hwd", weights, corners)


def _flow(painter: Painter, first: Figure, second: Figure, *, size: int) -> Flow:
    a, b = (covers(f, size=size, scale=1) for f in (first, second))
    skin_a, at_a = _visible(painter, a, first.points)
    skin_b, at_b = _visible(painter, b, second.points)
    here = np.moveaxis(np.indices((size, size))[::-1], 0, -1).astype(np.float32)
    target = np.where(
        skin_a[..., None],
        _moved(SKIN_QUADS, a.skin, at_a, second.points) - _moved(SKIN_QUADS, a.skin, at_a, first.points),
        _moved(BEHIND_QUADS, a.behind, at_a, second.points) - _moved(BEHIND_QUADS, a.behind, at_a, first.points),
    )
    something_a, something_b = skin_a | (a.behind >= 0), skin_b | (b.behind >= 0)
    target[~something_a] = 0.0
    x, y = np.moveaxis(np.round(here + target).astype(int), -1, 0)
    inside = (x >= 0) & (y >= 0) & (x < size) & (y < size)
    x, y = np.clip(x, 0, size - 1), np.clip(y, 0, size - 1)
    same = (skin_a == skin_b[y, x]) & (np.abs(at_b[y, x] - at_a).max(-1) < 1.5 * CELL)
    nothing = ~something_a & ~something_b[y, x]
    valid = inside & np.where(something_a, same & something_b[y, x], nothing)
    return Flow(target.astype(np.float32), valid, something_a)


def render_clip(*, identity: int, clip: int, seconds: float, fps: float = 25, size: int = 224, seed: int = 0) -> Clip:
    """Render clip number `clip` of person number `identity`; the same arguments give the same pixels."""
    person = cast(number=identity, seed=seed)
    name = (seed, identity, clip)
    return _render(
        Painter(person, size=size, seed=name),
        script(person.who, frames=max(1, round(seconds * fps)), fps=fps, seed=name),
        fps=fps,
    )


def _render(painter: Painter, what: Script, *, fps: float) -> Clip:
    """Render a script that was written elsewhere."""
    count, size = len(what.intensities), painter.size
    frames, marks = np.empty((count, size, size, 3), np.uint8), np.empty((count, 68, 2), np.float32)
    for i in range(count):
        frames[i], figure = painter.frame(what, i)
        marks[i] = painter.body.landmarks(figure)
    return Clip(frames, what.intensities, what.pose, marks, painter.body.who.number, fps, painter, what)
