"""Renders frames: geometry, light and textures to pixels."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.anatomy import CELL, Array
from facscale.synthetic.canvas import ATLAS, PATCHES, SKIN, get_vertex_slices, make_noise
from facscale.synthetic.identity import Identity, sample_identity
from facscale.synthetic.motion import MotionSequence
from facscale.synthetic.parts import paint_atlas
from facscale.synthetic.raster import BEHIND_QUADS, SKIN_QUADS, Quads, draw_quads, fit_texel_maps
from facscale.synthetic.scene import Body, FrameGeometry
from facscale.synthetic.wrinkles import get_wrinkles

_AT = get_vertex_slices()
_IN_MOUTH = ("mouth", "lower teeth", "upper teeth")
_WRAP = np.array(
    [0.42, 0.28, 0.24], np.float32
)  # light scatters in the skin, red most of all, so its shadows begin further round


@dataclass(frozen=True)
class VisibleQuads:
    """The quad that each pixel shows; -1 where there is none."""

    skin: NDArray[np.int32]  # [size * scale, size * scale]
    behind: NDArray[np.int32]  # [size * scale, size * scale]
    scale: int  # of this resolution to that of the image


def find_visible_quads(geometry: FrameGeometry, *, size: int, scale: int) -> VisibleQuads:
    """Find the quads that are visible in an image of `size` pixels, at `scale` times its resolution."""
    skin, behind = (np.full((size * scale, size * scale), -1, np.int32) for _ in range(2))
    points = geometry.points * scale + (scale - 1) / 2
    draw_quads(BEHIND_QUADS, points, depth=None, canvas=behind)
    draw_quads(SKIN_QUADS, points, depth=geometry.space[:, 2], canvas=skin)
    return VisibleQuads(skin, behind, scale)


class Actor(NamedTuple):
    """A person with geometry and textures, ready for rendering."""

    identity: Identity
    body: Body
    atlas: NDArray[np.uint8]


@lru_cache(maxsize=4)
def get_actor(*, number: int, seed: int) -> Actor:
    """Person `number` of the population `seed`, cached for the next clips of the same person."""
    identity = sample_identity(number=number, seed=seed)
    return Actor(identity, Body(identity), paint_atlas(identity))


class FrameRenderer:
    """Renders the frames of a clip."""

    def __init__(self, actor: Actor, *, size: int, seed: tuple[int, ...]) -> None:
        self.body, self.atlas, self.size = actor.body, actor.atlas, size
        self.scale = 2 if size <= 320 else 1
        random = np.random.default_rng([*seed, 3])
        self.background = _render_background(random, size=size * self.scale).reshape(-1, 3)
        self.noise = random.normal(0, random.uniform(0.5, 2.0), size=(4, size, size, 1)).astype(np.float32)

    def render_frame(self, motion: MotionSequence, frame: int) -> tuple[NDArray[np.uint8], FrameGeometry]:
        """Render an RGB image [size, size, 3]; also returns its geometry."""
        geometry = self.body.pose(motion, frame, size=self.size)
        visible = find_visible_quads(geometry, size=self.size, scale=self.scale)
        points = geometry.points * self.scale + (self.scale - 1) / 2
        light, detail = _compute_light(geometry, motion, frame), _compute_wrinkle_shade(motion.intensities[frame])
        image = self.background * np.float32(0.5 + 0.5 * motion.strength[frame].sum())
        skin, at = _select_pixels(visible.skin, visible.skin >= 0)
        front = _shade_pixels(
            SKIN_QUADS, skin, at, points, canvas=visible.skin, atlas=self.atlas, light=light, detail=detail
        )
        hidden = np.zeros(len(image), np.bool_)
        hidden[skin[front[:, 3] > 0.998]] = True
        behind, at = _select_pixels(visible.behind, (visible.behind.ravel() >= 0) & ~hidden)
        for where, colour in (
            (
                behind,
                _shade_pixels(BEHIND_QUADS, behind, at, points, canvas=visible.behind, atlas=self.atlas, light=light),
            ),
            (skin, front),
        ):
            background = image[where]
            image[where] = background + colour[:, 3:] * (colour[:, :3] - background)
        image = image.reshape(*visible.skin.shape, 3)
        if self.scale > 1:
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.clip(image + self.noise[frame % 4], 0, 255).astype(np.uint8), geometry


def _select_pixels(canvas: NDArray[np.int32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
    """Flat indices [n] of the pixels in `mask`, and their x, y [2, n]; the last is repeated until 256 divides n."""
    index = np.flatnonzero(mask)
    index = np.concatenate([index, np.repeat(index[-1:], -len(index) % 256)])
    y, x = np.divmod(index.astype(np.int32), canvas.shape[1])
    return index, np.stack([x, y]).astype(np.float32)


def _shade_pixels(
    quads: Quads,
    index: NDArray[np.int64],
    at: Array,
    points: Array,
    *,
    canvas: NDArray[np.int32],
    atlas: NDArray[np.uint8],
    light: Array,
    detail: Array | None = None,
) -> Array:
    """Lit colour 0..255 and opacity 0..1 [n, 4] of the pixels `index` with positions `at` [2, n]."""
    k = np.take(fit_texel_maps(quads, points), canvas.ravel()[index], axis=0).T
    u = (k[0] + k[1] * at[0] + k[2] * at[1]).reshape(-1, 256)
    v = (k[3] + k[4] * at[0] + k[5] * at[1]).reshape(-1, 256)
    sample = partial(cv2.remap, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    out = np.empty((len(index), 4), np.float32)
    colour = sample(atlas, u, v).reshape(-1, 4)
    shade = sample(light, u / CELL, v / CELL).reshape(-1, 3)
    if detail is not None:
        shade *= sample(detail, u, v).reshape(-1, 1)
    np.multiply(colour[:, :3], shade, out=out[:, :3])
    np.multiply(colour[:, 3], np.float32(1 / 255), out=out[:, 3])
    return out


def _compute_normals(space: Array, rows: int, columns: int) -> Array:
    grid = space.reshape(rows + 1, columns + 1, 3)
    across, down = np.empty_like(grid), np.empty_like(grid)
    across[:, 1:-1], across[:, 0], across[:, -1] = (
        grid[:, 2:] - grid[:, :-2],
        grid[:, 1] - grid[:, 0],
        grid[:, -1] - grid[:, -2],
    )
    down[1:-1], down[0], down[-1] = grid[2:] - grid[:-2], grid[1] - grid[0], grid[-1] - grid[-2]
    n = np.cross(across, down)
    return n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-8)


def _compute_light(geometry: FrameGeometry, motion: MotionSequence, frame: int) -> Array:
    """Brightness [rows, columns, 3] of every vertex of the atlas: ambient light, key light, a highlight on the skin."""
    towards, (ambient, key) = motion.light[frame], motion.strength[frame]
    out = np.ones((ATLAS[0] // CELL, ATLAS[1] // CELL, 3), np.float32)
    half = towards + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    for patch in PATCHES:
        n = _compute_normals(geometry.space[_AT[patch.name]], patch.rows, patch.columns)
        facing = (n @ towards)[..., None]
        direct = np.clip((facing + _WRAP) / (1 + _WRAP), 0, None)
        sky = 0.75 + 0.25 * np.clip(n[..., 2:], 0, 1) - 0.2 * n[..., 1:2] + 0.25 * np.clip(n[..., 1:2], 0, 1)
        value = ambient * sky + key * direct * motion.tint
        if patch is SKIN:
            value += 0.10 * key * np.clip(n @ half, 0, 1)[..., None] ** 18
        if patch.name in _IN_MOUTH:
            value *= geometry.mouth_open
        out[patch.top : patch.top + patch.rows + 1, patch.left : patch.left + patch.columns + 1] = value
    return out


def _compute_wrinkle_shade(intensities: Array) -> Array:
    """Brightness factor of the wrinkles on every texel of the skin."""
    rows, columns = SKIN.area
    out = np.ones((rows.stop, columns.stop), np.float32)
    for index, wrinkle in get_wrinkles().items():
        if intensities[index] > 0.05:
            out[wrinkle.area] += wrinkle.depth * float(intensities[index] / 5)
    return np.clip(out, 0.15, 1.6)


def _sample_wall_colour(random: np.random.Generator) -> Array:
    """Sample a muted colour, as of walls, curtains and furniture."""
    return np.clip(random.uniform(25, 225) + random.normal(0, 1, 3) * min(random.exponential(9), 22), 10, 245)


def _render_background(random: np.random.Generator, *, size: int) -> Array:
    """Render an out-of-focus room [size, size, 3]: a gradient, blurred blocks and a little texture."""
    a, b = _sample_wall_colour(random), _sample_wall_colour(random)
    t = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    image = (a * (1 - t) + b * t).astype(np.float32) * np.ones((1, size, 1), np.float32)
    for _ in range(int(random.integers(2, 9))):
        x, y = random.uniform(-0.2, 1.0, size=2) * size
        w, h = random.uniform(0.05, 0.5, size=2) * size
        colour = [float(c) for c in _sample_wall_colour(random)]
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
    image = cv2.GaussianBlur(image, (0, 0), size * random.uniform(0.012, 0.05))
    image += (1.5 * make_noise((size, size), scale=size / 40, random=random))[..., None]
    return np.clip(image, 0, 255)
