"""One frame: geometry, light and paint into pixels."""

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
from facscale.synthetic.canvas import ATLAS, PATCHES, SKIN, noise, offsets
from facscale.synthetic.identity import Identity, identity
from facscale.synthetic.motion import Script
from facscale.synthetic.parts import paint
from facscale.synthetic.raster import BEHIND_QUADS, SKIN_QUADS, Quads, cover, texels
from facscale.synthetic.scene import Body, Figure
from facscale.synthetic.wrinkles import wrinkles

_AT = offsets()
_IN_MOUTH = ("mouth", "lower teeth", "upper teeth")
_WRAP = np.array([0.42, 0.28, 0.24], np.float32)  # skin lets red light through, so its shadows begin later


@dataclass(frozen=True)
class Cover:
    """Which quad every pixel shows; -1 where none does. `scale` of these pixels make one of the picture."""

    skin: NDArray[np.int32]
    behind: NDArray[np.int32]
    scale: int


def covers(figure: Figure, *, size: int, scale: int) -> Cover:
    """Visible quads at `scale` times the picture's resolution."""
    skin, behind = (np.full((size * scale, size * scale), -1, np.int32) for _ in range(2))
    points = figure.points * scale + (scale - 1) / 2
    cover(BEHIND_QUADS, points, depth=None, canvas=behind)
    cover(SKIN_QUADS, points, depth=figure.space[:, 2], canvas=skin)
    return Cover(skin, behind, scale)


class Cast(NamedTuple):
    """A person, ready to be rendered."""

    who: Identity
    body: Body
    atlas: NDArray[np.uint8]


@lru_cache(maxsize=4)
def cast(*, number: int, seed: int) -> Cast:
    """Person `number` of the population `seed`, painted; kept for the person's next clip."""
    who = identity(number=number, seed=seed)
    return Cast(who, Body(who), paint(who))


class Painter:
    """Renders the frames of one clip."""

    def __init__(self, who: Cast, *, size: int, seed: tuple[int, ...]) -> None:
        self.body, self.atlas, self.size = who.body, who.atlas, size
        self.scale = 2 if size <= 320 else 1
        random = np.random.default_rng([*seed, 3])
        self.background = _background(random, size=size * self.scale).reshape(-1, 3)
        self.noise = random.normal(0, random.uniform(0.5, 2.0), size=(4, size, size, 1)).astype(np.float32)

    def frame(self, script: Script, frame: int) -> tuple[NDArray[np.uint8], Figure]:
        """RGB [size, size, 3] and its geometry."""
        figure = self.body.place(script, frame, size=self.size)
        what = covers(figure, size=self.size, scale=self.scale)
        points = figure.points * self.scale + (self.scale - 1) / 2
        light, detail = _light(figure, script, frame), _detail(script.intensities[frame])
        image = self.background * np.float32(0.5 + 0.5 * script.strength[frame].sum())
        skin, at = _pixels(what.skin, what.skin >= 0)
        front = _shaded(SKIN_QUADS, skin, at, points, canvas=what.skin, atlas=self.atlas, light=light, detail=detail)
        hidden = np.zeros(len(image), np.bool_)
        hidden[skin[front[:, 3] > 0.998]] = True
        behind, at = _pixels(what.behind, (what.behind.ravel() >= 0) & ~hidden)
        for where, colour in (
            (behind, _shaded(BEHIND_QUADS, behind, at, points, canvas=what.behind, atlas=self.atlas, light=light)),
            (skin, front),
        ):
            under = image[where]
            image[where] = under + colour[:, 3:] * (colour[:, :3] - under)
        image = image.reshape(*what.skin.shape, 3)
        if self.scale > 1:
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.clip(image + self.noise[frame % 4], 0, 255).astype(np.uint8), figure


def _pixels(canvas: NDArray[np.int32], wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
    """Flat indices [n] of the wanted pixels and their x, y [2, n]; n is a multiple of 256, the last one is repeated."""
    index = np.flatnonzero(wanted)
    index = np.concatenate([index, np.repeat(index[-1:], -len(index) % 256)])
    y, x = np.divmod(index.astype(np.int32), canvas.shape[1])
    return index, np.stack([x, y]).astype(np.float32)


def _shaded(
    which: Quads,
    index: NDArray[np.int64],
    at: Array,
    points: Array,
    *,
    canvas: NDArray[np.int32],
    atlas: NDArray[np.uint8],
    light: Array,
    detail: Array | None = None,
) -> Array:
    """Lit colour 0..255 and opacity 0..1 of the pixels `index`: [n, 4]."""
    k = np.take(texels(which, points), canvas.ravel()[index], axis=0).T
    u = (k[0] + k[1] * at[0] + k[2] * at[1]).reshape(-1, 256)
    v = (k[3] + k[4] * at[0] + k[5] * at[1]).reshape(-1, 256)
    look = partial(cv2.remap, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    out = np.empty((len(index), 4), np.float32)
    colour = look(atlas, u, v).reshape(-1, 4)
    shade = look(light, u / CELL, v / CELL).reshape(-1, 3)
    if detail is not None:
        shade *= look(detail, u, v).reshape(-1, 1)
    np.multiply(colour[:, :3], shade, out=out[:, :3])
    np.multiply(colour[:, 3], np.float32(1 / 255), out=out[:, 3])
    return out


def _normals(space: Array, rows: int, columns: int) -> Array:
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


def _light(figure: Figure, script: Script, frame: int) -> Array:
    """Brightness [rows, columns, 3] at every vertex of the atlas."""
    towards, (around, key) = script.light[frame], script.strength[frame]
    out = np.ones((ATLAS[0] // CELL, ATLAS[1] // CELL, 3), np.float32)
    half = towards + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    for patch in PATCHES:
        n = _normals(figure.space[_AT[patch.name]], patch.rows, patch.columns)
        facing = (n @ towards)[..., None]
        direct = np.clip((facing + _WRAP) / (1 + _WRAP), 0, None)
        sky = 0.75 + 0.25 * np.clip(n[..., 2:], 0, 1) - 0.2 * n[..., 1:2] + 0.25 * np.clip(n[..., 1:2], 0, 1)
        value = around * sky + key * direct * script.tint
        if patch is SKIN:
            value += 0.10 * key * np.clip(n @ half, 0, 1)[..., None] ** 18
        if patch.name in _IN_MOUTH:
            value *= figure.mouth_open
        out[patch.top : patch.top + patch.rows + 1, patch.left : patch.left + patch.columns + 1] = value
    return out


def _detail(intensities: Array) -> Array:
    """Brightness factor of the wrinkles, on the skin's texels."""
    rows, columns = SKIN.texels
    out = np.ones((rows.stop, columns.stop), np.float32)
    for index, wrinkle in wrinkles().items():
        if intensities[index] > 0.05:
            out[wrinkle.area] += wrinkle.depth * float(intensities[index] / 5)
    return np.clip(out, 0.15, 1.6)


def _muted(random: np.random.Generator) -> Array:
    """A colour that walls, curtains and furniture have."""
    return np.clip(random.uniform(25, 225) + random.normal(0, 1, 3) * min(random.exponential(9), 22), 10, 245)


def _background(random: np.random.Generator, *, size: int) -> Array:
    """An out-of-focus room: a gradient, blurred blocks, a little texture."""
    a, b = _muted(random), _muted(random)
    t = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    image = (a * (1 - t) + b * t).astype(np.float32) * np.ones((1, size, 1), np.float32)
    for _ in range(int(random.integers(2, 9))):
        x, y = random.uniform(-0.2, 1.0, size=2) * size
        w, h = random.uniform(0.05, 0.5, size=2) * size
        colour = [float(c) for c in _muted(random)]
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
    image = cv2.GaussianBlur(image, (0, 0), size * random.uniform(0.012, 0.05))
    image += (1.5 * noise((size, size), scale=size / 40, random=random))[..., None]
    return np.clip(image, 0, 255)
