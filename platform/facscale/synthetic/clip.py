"""A rendered clip with its ground truth, which includes the optical flow between any two of its frames."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.anatomy import CELL, Array
from facscale.synthetic.motion import MotionSequence, sample_motion
from facscale.synthetic.raster import BEHIND_QUADS, SKIN_QUADS, Quads, fit_texel_maps
from facscale.synthetic.render import FrameRenderer, VisibleQuads, find_visible_quads, get_actor
from facscale.synthetic.scene import FrameGeometry

Kind = Literal["all", "au", "pose"]


class FlowField(NamedTuple):
    """A displacement field over an image."""

    displacement: Array  # [H, W, 2] pixels, x then y
    valid: NDArray[np.bool_]  # [H, W] where it is defined
    person: NDArray[np.bool_]  # [H, W] where there is a person


class Change(NamedTuple):
    """An image in which only the face or only the head has moved."""

    landmarks: Array  # [68, 2]
    origin: FlowField  # from where in the unchanged image each pixel comes


@dataclass
class Clip:
    """T frames of a person."""

    frames: NDArray[np.uint8]  # [T, H, W, 3] RGB
    intensities: Array  # [T, 15] 0..5, in the order of AUS
    pose: Array  # [T, 6] yaw, pitch, roll (rad), x, y (eye distances), scale
    landmarks: Array  # [T, 68, 2] pixels, in the order of iBUG
    identity: int
    fps: float
    _renderer: FrameRenderer = field(repr=False)
    _motion: MotionSequence = field(repr=False)

    def compute_flow(self, i: int, j: int, *, kind: Kind = "all") -> FlowField:
        """Compute the optical flow from frame `i` to frame `j`.

        With `kind="au"`, only the face moves (action units, speech, lids, gaze), and the head stays as in `i`; with
        `kind="pose"`, only the head moves. The flow is invalid where its target is hidden or out of the image in `j`.
        """
        size = self.frames.shape[1]
        first = self._renderer.body.pose(self._motion, i, size=size)
        second = self._renderer.body.pose(_combine_frames(self._motion, i, j, kind), 0, size=size)
        return _compute_flow(self._renderer, first, second, size=size)

    def compute_change(self, source: int, target: int, *, kind: Kind = "all") -> Change:
        """Compute how frame `source` changes when only `kind` (see `compute_flow`) takes the state of `target`."""
        size = self.frames.shape[1]
        first = self._renderer.body.pose(_combine_frames(self._motion, source, target, kind), 0, size=size)
        second = self._renderer.body.pose(self._motion, source, size=size)
        return Change(
            self._renderer.body.locate_landmarks(first), _compute_flow(self._renderer, first, second, size=size)
        )


def _combine_frames(motion: MotionSequence, i: int, j: int, kind: Kind) -> MotionSequence:
    """A sequence of a single frame: the face and the head are those of frame `i` or `j`, by `kind`."""
    face, head = (j if kind != "pose" else i), (j if kind != "au" else i)
    of_face = {name: getattr(motion, name)[face : face + 1] for name in ("intensities", "pucker", "blink", "gaze")}
    of_head = {name: getattr(motion, name)[head : head + 1] for name in ("pose", "light", "strength")}
    return replace(motion, **of_face, **of_head)


def _find_visible(renderer: FrameRenderer, visible: VisibleQuads, points: Array) -> tuple[NDArray[np.bool_], Array]:
    """Where the skin is visible (not a hole) [H, W], and the atlas coordinates of what each pixel shows [H, W, 2]."""
    rows, columns = np.indices(visible.skin.shape)
    coordinates = []
    for quads, canvas in ((SKIN_QUADS, visible.skin), (BEHIND_QUADS, visible.behind)):
        k = fit_texel_maps(quads, points)[np.maximum(canvas, 0)]
        at = np.stack(
            [k[..., 0] + k[..., 1] * columns + k[..., 2] * rows, k[..., 3] + k[..., 4] * columns + k[..., 5] * rows], -1
        )
        low = quads.origin[np.maximum(canvas, 0)]
        coordinates.append(np.clip(at, low, low + CELL))
    x, y = np.round(coordinates[0]).astype(int).transpose(2, 0, 1)
    opaque = renderer.atlas[np.clip(y, 0, None), np.clip(x, 0, None), 3] > 127
    skin = (visible.skin >= 0) & opaque
    return skin, np.where(skin[..., None], *coordinates)


def _interpolate_positions(quads: Quads, canvas: NDArray[np.int32], at: Array, points: Array) -> Array:
    """Image positions [H, W, 2] of the atlas coordinates `at`, where the vertices lie at `points`."""
    index = np.maximum(canvas, 0)
    s, t = np.moveaxis((at - quads.origin[index]) / CELL, -1, 0)
    corners = points[quads.corners[index]]
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=-1)
    return np.einsum("hwk,hwkd->hwd", weights, corners)


def _compute_flow(renderer: FrameRenderer, first: FrameGeometry, second: FrameGeometry, *, size: int) -> FlowField:
    a, b = (find_visible_quads(f, size=size, scale=1) for f in (first, second))
    skin_a, at_a = _find_visible(renderer, a, first.points)
    skin_b, at_b = _find_visible(renderer, b, second.points)
    here = np.moveaxis(np.indices((size, size))[::-1], 0, -1).astype(np.float32)
    target = np.where(
        skin_a[..., None],
        _interpolate_positions(SKIN_QUADS, a.skin, at_a, second.points)
        - _interpolate_positions(SKIN_QUADS, a.skin, at_a, first.points),
        _interpolate_positions(BEHIND_QUADS, a.behind, at_a, second.points)
        - _interpolate_positions(BEHIND_QUADS, a.behind, at_a, first.points),
    )
    person_a, person_b = skin_a | (a.behind >= 0), skin_b | (b.behind >= 0)
    target[~person_a] = 0.0
    x, y = np.moveaxis(np.round(here + target).astype(int), -1, 0)
    inside = (x >= 0) & (y >= 0) & (x < size) & (y < size)
    x, y = np.clip(x, 0, size - 1), np.clip(y, 0, size - 1)
    same = (skin_a == skin_b[y, x]) & (np.abs(at_b[y, x] - at_a).max(-1) < 1.5 * CELL)
    background = ~person_a & ~person_b[y, x]
    valid = inside & np.where(person_a, same & person_b[y, x], background)
    return FlowField(target.astype(np.float32), valid, person_a)


def render_clip(*, identity: int, clip: int, seconds: float, fps: float = 25, size: int = 224, seed: int = 0) -> Clip:
    """Render clip number `clip` of person number `identity`; equal arguments give equal pixels."""
    actor = get_actor(number=identity, seed=seed)
    clip_seed = (seed, identity, clip)
    return render_motion(
        FrameRenderer(actor, size=size, seed=clip_seed),
        sample_motion(actor.identity, frames=max(1, round(seconds * fps)), fps=fps, seed=clip_seed),
        fps=fps,
    )


def render_motion(renderer: FrameRenderer, motion: MotionSequence, *, fps: float) -> Clip:
    """Render a given motion sequence."""
    count, size = len(motion.intensities), renderer.size
    frames, marks = np.empty((count, size, size, 3), np.uint8), np.empty((count, 68, 2), np.float32)
    for i in range(count):
        frames[i], geometry = renderer.render_frame(motion, i)
        marks[i] = renderer.body.locate_landmarks(geometry)
    return Clip(frames, motion.intensities, motion.pose, marks, renderer.body.identity.number, fps, renderer, motion)
