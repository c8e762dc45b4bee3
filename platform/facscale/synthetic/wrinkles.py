"""The wrinkles of action units: lines, furrows, dimples and bulges, as changes of the skin's brightness."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from facscale.synthetic.actions import AUS
from facscale.synthetic.anatomy import EYE_X, MOUTH_GAP, Array, blob, blob_pair, get_mouth_edges
from facscale.synthetic.canvas import draw_curve, get_texel_chart, make_grain, mirror_curve

Curves = list[tuple[float, list[tuple[float, float]]]]  # strength, points on the right half of the face

_PAIRS: dict[int, Curves] = {
    1: [(0.38, [(0.0, h), (0.2, h + 0.01), (0.42, h + 0.05)]) for h in (-0.56, -0.68, -0.8)],
    2: [(0.36, [(0.45, h), (0.65, h - 0.03), (0.92, h + 0.06)]) for h in (-0.5, -0.6, -0.7)],
    4: [
        (0.6, [(0.09, -0.4), (0.075, -0.28), (0.095, -0.15)]),
        (0.25, [(0.16, -0.42), (0.15, -0.32)]),
        (0.2, [(0.0, -0.1), (0.09, -0.08)]),
    ],
    6: [(0.36, [(0.72, 0.0 + d), (0.8, 2.0 * d), (0.9, 3.2 * d + 0.02)]) for d in (-0.035, 0.01, 0.05)]
    + [
        (0.38, [(0.34, 0.11), (0.46, 0.15), (0.6, 0.13), (0.7, 0.07)]),
        (0.3, [(0.3, 0.62), (0.36, 0.76), (0.44, 0.88)]),
    ],
    7: [(0.32, [(0.34, 0.085), (0.46, 0.11), (0.6, 0.095)]), (0.2, [(0.7, 0.03), (0.78, 0.05)])],
    9: [(0.5, [(0.02, h), (0.09, h + 0.02), (0.17, h + 0.09)]) for h in (-0.04, 0.05, 0.14)]
    + [(0.35, [(0.1, 0.22), (0.17, 0.32)]), (0.5, [(0.24, 0.5), (0.31, 0.62), (0.35, 0.72)])],
    10: [(0.55, [(0.25, 0.6), (0.33, 0.69), (0.42, 0.83), (0.46, 0.92)])],
    12: [(0.55, [(0.27, 0.64), (0.38, 0.74), (0.5, 0.88), (0.58, 1.04)]), (0.3, [(0.47, 0.98), (0.5, 1.06)])],
    14: [(0.6, [(0.52, 0.93), (0.56, 1.03), (0.535, 1.12)]), (0.3, [(0.44, 1.03), (0.5, 1.03)])],
    15: [(0.6, [(0.45, 1.06), (0.5, 1.15), (0.51, 1.26)]), (0.2, [(0.4, 1.3), (0.44, 1.38)])],
    23: [(0.2, [(a, 0.9), (0.9 * a, 0.95)]) for a in (0.06, 0.16, 0.26)]
    + [(0.2, [(a, 1.36), (0.9 * a, 1.42)]) for a in (0.06, 0.17)],
    24: [(0.2, [(0.12, 0.88), (0.3, 0.93), (0.46, 1.02)]), (0.2, [(0.1, 1.45), (0.3, 1.4)])],
}


@dataclass(frozen=True)
class Wrinkle:
    """The change of brightness by an AU."""

    area: tuple[slice, slice]  # rows and columns of the skin patch
    depth: Array  # times intensity / 5, added to a brightness factor of 1


def _make_groove(mask_points: np.ndarray) -> Array:
    """A dark line with a bright rim on its lower side, where the skin bulges towards the light."""
    dark = 0.75 * draw_curve(mask_points, width=2, soft=2.0) + 0.35 * draw_curve(mask_points, width=4, soft=4.5)
    return _fade(dark - 0.4 * np.roll(draw_curve(mask_points, width=4, soft=3.5), 7, axis=0), mask_points)


def _fade(mask: Array, curve: np.ndarray) -> Array:
    """Fade out the ends of a curve."""
    x, y = get_texel_chart()
    middle, reach = (curve.min(0) + curve.max(0)) / 2, (curve.max(0) - curve.min(0)) / 2 + 0.05
    return mask * np.exp(
        -np.clip((((x - middle[0]) / reach[0]) ** 2 + ((y - middle[1]) / reach[1]) ** 2) - 0.7, 0, None) * 0.9
    ).astype(np.float32)


def _make_bulges() -> dict[int, Array]:
    """Shading other than lines, by AU."""
    x, y = get_texel_chart()
    g = MOUTH_GAP
    stones = make_grain(scale=0.07, random=np.random.default_rng(17))
    chin = blob(x, y, at=(0, 1.52 + g * 0.6), size=(0.2, 0.11))
    upper, lower = get_mouth_edges(x)
    seam = np.exp(-np.minimum(np.abs(y - upper), np.abs(y - lower)) / 0.03) * np.exp(-((x / 0.38) ** 4))
    pale = blob(x, y, at=(0, 0.87), size=(0.25, 0.035)) + blob(x, y, at=(0, 1.27 + g), size=(0.25, 0.04))
    return {
        6: 0.10 * blob_pair(x, y, at=(0.58, 0.42), size=(0.2, 0.13)),
        12: 0.12 * blob_pair(x, y, at=(0.62, 0.6), size=(0.16, 0.13)),
        14: -0.35 * blob_pair(x, y, at=(0.54, 1.04), size=(0.055, 0.08))
        + 0.12 * blob_pair(x, y, at=(0.62, 1.04), size=(0.05, 0.1)),
        17: 0.2 * stones * chin - 0.4 * blob(x, y, at=(0, 1.36 + g), size=(0.2, 0.035)) + 0.08 * chin,
        9: -0.10 * blob_pair(x, y, at=(0.2, 0.1), size=(0.08, 0.1)),
        10: -0.12 * blob_pair(x, y, at=(0.36, 0.78), size=(0.06, 0.1)),
        23: -0.5 * seam - 0.12 * pale,
        24: -0.45 * seam + 0.06 * pale,
        7: -0.3 * blob_pair(x, y, at=(EYE_X, 0.09), size=(0.16, 0.025)),
    }


@lru_cache(maxsize=1)
def get_wrinkles() -> dict[int, Wrinkle]:
    """The wrinkles by index of the AU in AUS; AUs without wrinkles are absent."""
    bulges, out = _make_bulges(), {}
    for index, au in enumerate(AUS):
        depth = bulges.get(au, np.zeros_like(get_texel_chart()[0])).astype(np.float32)
        for strength, points in _PAIRS.get(au, []):
            for curve in mirror_curve(points):
                depth = depth - strength * _make_groove(curve)
        strong = np.abs(depth) > 0.004
        if strong.any():
            rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
            area = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            out[index] = Wrinkle(area, np.ascontiguousarray(depth[area]))
    return out
