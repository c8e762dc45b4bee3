"""The texture atlas: the layout of its patches, and drawing in chart coordinates on its skin."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

from facscale.synthetic.anatomy import CELL, COLUMNS, ROWS, Array, get_template, to_grid


@dataclass(frozen=True)
class Patch:
    """A grid of `rows` x `columns` cells whose first vertex lies at (top, left), in cells of the atlas."""

    name: str
    rows: int
    columns: int
    top: int
    left: int

    @property
    def vertices(self) -> int:
        """The number of vertices."""
        return (self.rows + 1) * (self.columns + 1)

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the atlas in texels, with a margin of one cell to the right and below."""
        return (
            slice(self.top * CELL, (self.top + self.rows + 1) * CELL),
            slice(self.left * CELL, (self.left + self.columns + 1) * CELL),
        )


SKIN = Patch("skin", ROWS, COLUMNS, 0, 0)
_X = COLUMNS + 2
# In painter's order: later patches hide earlier ones, and the skin hides all of them.
BEHIND: tuple[Patch, ...] = (
    Patch("mane", 12, 12, 15, _X),
    Patch("bust", 13, 24, 0, _X),
    Patch("ear left", 6, 6, 43, _X),
    Patch("ear right", 6, 6, 43, _X + 8),
    Patch("mouth", 6, 8, 51, _X),
    Patch("lower teeth", 2, 8, 59, _X),
    Patch("upper teeth", 2, 8, 63, _X),
    Patch("eye left", 12, 12, 29, _X),
    Patch("eye right", 12, 12, 29, _X + 14),
)
PATCHES = (SKIN, *BEHIND)
ATLAS = ((ROWS + 1) * CELL, (_X + 28) * CELL)  # height, width in texels


def get_vertex_slices() -> dict[str, slice]:
    """The range of each patch among all vertices, by name."""
    out, start = {}, 0
    for patch in PATCHES:
        out[patch.name] = slice(start, start + patch.vertices)
        start += patch.vertices
    return out


@lru_cache(maxsize=1)
def get_texel_chart() -> tuple[Array, Array]:
    """Chart x and y of every texel of the skin, [(ROWS + 1) * CELL, (COLUMNS + 1) * CELL] each."""
    chart = get_template().chart.reshape(ROWS + 1, COLUMNS + 1, 2)
    rows, columns = (np.arange(n * CELL, dtype=np.float32) / CELL for n in (ROWS + 1, COLUMNS + 1))
    gx, gy = np.meshgrid(columns, rows)
    xy = cv2.remap(chart, gx, gy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return xy[..., 0], xy[..., 1]


_FINE = 4  # bits of sub-texel precision of cv2's drawing


def _to_fixed_point(points: Array) -> NDArray[np.int32]:
    return np.round(to_grid(np.asarray(points, float)) * CELL * (1 << _FINE)).astype(np.int32)


def fill_outline(outline: Array, *, soft: float = 1.0) -> Array:
    """Fill a closed outline [N, 2] in chart coordinates: a mask 0..1, its edge blurred by `soft` texels."""
    mask = np.zeros(get_texel_chart()[0].shape, np.uint8)
    cv2.fillPoly(mask, [_to_fixed_point(outline)], 255, cv2.LINE_AA, _FINE)
    return cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), soft) if soft else mask.astype(np.float32) / 255


def draw_curve(points: Array, *, width: int = 1, soft: float = 1.0) -> Array:
    """Draw an open curve [N, 2] in chart coordinates: a mask 0..1 whose maximum is 1."""
    mask = np.zeros(get_texel_chart()[0].shape, np.uint8)
    curve = smooth_curve(points) if len(points) < 10 else points
    cv2.polylines(mask, [_to_fixed_point(curve)], False, 255, width, cv2.LINE_AA, _FINE)
    out = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), soft)
    return out / max(float(out.max()), 1e-6)


def draw_strokes(curves: list[Array]) -> Array:
    """Draw many thin curves [N, 2]: a mask 0..1."""
    mask = np.zeros(get_texel_chart()[0].shape, np.uint8)
    for curve in curves:
        cv2.polylines(mask, [_to_fixed_point(curve)], False, 255, 1, cv2.LINE_AA, _FINE)
    return mask.astype(np.float32) / 255


def mirror_curve(points: list[tuple[float, float]]) -> list[Array]:
    """A curve and its mirror image on the other side of the face."""
    array = np.asarray(points, float)
    return [array, array * [-1, 1]]


def make_noise(shape: tuple[int, ...], *, scale: float, random: np.random.Generator) -> Array:
    """Smooth noise of standard deviation 1, with details about `scale` texels wide."""
    small = random.normal(size=[max(2, int(n / scale) + 2) for n in shape]).astype(np.float32)
    out = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (out - out.mean()) / (out.std() + 1e-6)


def make_grain(*, scale: float, random: np.random.Generator) -> Array:
    """Smooth noise of standard deviation 1 on the skin, with details about `scale` eye distances wide everywhere."""
    across, down = max(4, int(5.0 / scale)), max(4, int(4.2 / scale))
    small = random.normal(size=(down, across)).astype(np.float32)
    gx, gy = (get_texel_angles() * 1.1 + 2.4) / 5.0 * across, (get_texel_chart()[1] + 2.0) / 4.2 * down
    out = cv2.remap(small, gx, gy, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return (out - out.mean()) / (out.std() + 1e-6)


@lru_cache(maxsize=1)
def get_texel_angles() -> Array:
    """Angle around the vertical axis of every texel of the skin, rad."""
    angle = get_template().angle[: COLUMNS + 1]
    columns = np.interp(np.arange((COLUMNS + 1) * CELL) / CELL, np.arange(COLUMNS + 1), angle)
    return np.broadcast_to(columns.astype(np.float32), get_texel_chart()[0].shape).copy()


def smooth_curve(points: Array, count: int = 60, *, closed: bool = False) -> Array:
    """A curve [count, 2] through `points` [N, 2]."""
    if closed:
        points = np.concatenate([points, points[:1]])
        return CubicSpline(np.arange(len(points)), points, bc_type="periodic")(np.linspace(0, len(points) - 1, count))
    return PchipInterpolator(np.arange(len(points)), points)(np.linspace(0, len(points) - 1, count))


def blend(image: Array, colour: Array, mask: Array) -> None:
    """Blend `colour` [3] or [H, W, 3] into `image` [H, W, 3] with opacity `mask` [H, W], in place."""
    image += (np.asarray(colour, np.float32) - image) * mask[..., None]
