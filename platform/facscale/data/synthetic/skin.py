"""Paints the skin of one person: tone, brows, lips, lids, nostrils, beard, hair; eyes and mouth stay transparent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import cv2

from facscale.data.synthetic.anatomy import EYE_HALF, EYE_X, MOUTH_GAP, MOUTH_HALF, MOUTH_Y, Array, blob, eye_edges, lip_points, mouth_edges, pair, step
from facscale.data.synthetic.canvas import both_sides, filled, line, mix, noise, texels
from facscale.data.synthetic.identity import Identity


def paint_skin(who: Identity) -> Array:
    """RGBA [H, W, 4] in 0..1 of the skin patch."""
    random = np.random.default_rng(who.paint_seed)
    image = _tone(who, random)
    _folds(image, who)
    _lips(image, who, random)
    _nose(image, who)
    _lids(image, who)
    _beard(image, who, random)
    _brows(image, who, random)
    _hair(image, who, random)
    return np.concatenate([np.clip(image, 0, 1), _alpha()[..., None]], axis=-1)


def _tone(who: Identity, random: np.random.Generator) -> Array:
    x, y = texels()
    image = np.broadcast_to(who.skin.astype(np.float32), (*x.shape, 3)).copy()
    blush = 0.5 * pair(x, y, at=(0.62, 0.5), size=(0.25, 0.22)) + 0.6 * blob(x, y, at=(0, 0.6), size=(0.2, 0.18))
    image *= 1.0 + (blush * 0.16)[..., None] * np.array([0.6, -0.9, -0.8], np.float32)
    image *= 1.0 - 0.10 * step(np.abs(x), 0.75, 1.15)[..., None]
    rough = 0.5 + who.age
    for scale, strength in ((90, 0.02), (30, 0.018), (9, 0.014), (3, 0.02), (1.6, 0.018)):
        image *= 1.0 + strength * rough * noise(x.shape, scale=scale, random=random)[..., None]
    image *= 1.0 + 0.02 * rough * noise(x.shape, scale=40, random=random)[..., None] * np.array([0.3, -1, -0.8], np.float32)
    spots = np.clip(noise(x.shape, scale=5, random=random) - 1.5, 0, 1) * (0.4 + 0.6 * np.exp(-(((y - 0.4) / 0.5) ** 2)))
    image *= 1.0 - (min(who.freckles, 1.5) * 0.45 * spots)[..., None] * np.array([0.5, 0.8, 1.0], np.float32)
    for _ in range(int(random.integers(0, 4))):
        at, size = (random.uniform(-0.9, 0.9), random.uniform(-0.6, 1.6)), random.uniform(0.012, 0.025)
        image *= 1.0 - 0.6 * blob(x, y, at=at, size=(size, size))[..., None]
    return image


def _folds(image: Array, who: Identity) -> None:
    """Shadows that the coarse light misses, and the lines of age."""
    x, y = texels()
    shade = 0.22 * pair(x, y, at=(0.27, 0.0), size=(0.08, 0.10)) + 0.10 * pair(x, y, at=(0.48, 0.16), size=(0.16, 0.05))
    shade += 0.15 * blob(x, y, at=(0, 1.36 + MOUTH_GAP), size=(0.2, 0.05)) + 0.10 * blob(x, y, at=(0, 0.8), size=(0.16, 0.05))
    shade += 0.35 * step(y, 1.83, 1.9)
    lines = np.zeros_like(x)
    for curve in both_sides([(0.27, 0.66), (0.37, 0.78), (0.47, 0.95), (0.5, 1.04)]):
        lines += (0.05 + 0.22 * who.age) * line(curve, width=2, soft=3.0)
    for curve in both_sides([(0.34, 0.12), (0.45, 0.18), (0.58, 0.16)]):
        lines += (0.03 + 0.16 * who.age) * line(curve, width=2, soft=2.0)
    for height in (-0.62, -0.78):
        lines += 0.10 * who.age * line(np.array([(-0.6, height + 0.03), (0, height), (0.6, height + 0.03)]), width=2, soft=1.5)
    image *= (1.0 - shade)[..., None] ** np.array([0.8, 1.05, 1.1], np.float32)
    image *= 1.0 - lines[..., None]


def _smooth(points: NDArray[np.floating], count: int = 60, *, closed: bool = False) -> NDArray[np.floating]:
    from scipy.interpolate import CubicSpline, PchipInterpolator

    if closed:
        points = np.concatenate([points, points[:1]])
        return CubicSpline(np.arange(len(points)), points, bc_type="periodic")(np.linspace(0, len(points) - 1, count))
    return PchipInterpolator(np.arange(len(points)), points)(np.linspace(0, len(points) - 1, count))


def _lips(image: Array, who: Identity, random: np.random.Generator) -> None:
    x, y = texels()
    outer = lip_points()[:12]
    outline = np.concatenate([_smooth(outer[:7]), _smooth(np.concatenate([outer[6:], outer[:1]]))])
    mask = filled(outline, soft=1.6)
    colour = np.broadcast_to(who.lips.astype(np.float32), image.shape).copy()
    colour *= 1.0 + 0.05 * cv2.GaussianBlur(random.normal(size=x.shape).astype(np.float32), (1, 9), 2.0)[..., None] * 2
    upper, lower = mouth_edges(x)
    colour *= 1.0 - 0.16 * (y < upper)[..., None]  # the upper lip looks down
    colour *= 1.0 + 0.16 * blob(x, y, at=(0, 1.14 + MOUTH_GAP), size=(0.18, 0.03))[..., None]
    rim = np.exp(-np.abs(y - np.where(y < (upper + lower) / 2, upper, lower)) / 0.02) * (np.abs(x) < MOUTH_HALF + 0.01)
    colour *= 1.0 - 0.6 * rim[..., None]
    mix(image, colour, mask)
    for curve in both_sides([(MOUTH_HALF - 0.03, MOUTH_Y), (MOUTH_HALF + 0.03, MOUTH_Y + 0.005)]):
        image *= 1.0 - 0.4 * line(curve, width=2, soft=1.6)[..., None]


def _nose(image: Array, who: Identity) -> None:
    x, y = texels()
    shade = 0.75 * pair(x - 0.02 * np.sign(x), y, at=(0.105, 0.695), size=(0.05, 0.021))
    shade += 0.22 * blob(x, y, at=(0.0, 0.735), size=(0.17, 0.028))
    for curve in both_sides([(0.205, 0.53), (0.255, 0.6), (0.25, 0.68), (0.19, 0.715)]):
        shade += 0.25 * line(curve, width=2, soft=2.2)
    for curve in both_sides([(0.05, 0.8), (0.06, 0.9)]):
        shade += 0.05 * line(curve, width=3, soft=2.5)
    image *= np.clip(1.0 - shade, 0.05, 1)[..., None] ** np.array([0.9, 1.1, 1.1], np.float32)


def _lids(image: Array, who: Identity) -> None:
    s = np.linspace(-1, 1, 40)
    for side in (-1, 1):
        at = side * (EYE_X + EYE_HALF * s)
        upper, lower = eye_edges(at)
        edge = np.stack([at, upper], -1)
        lash, crease = np.array([0.0, 0.0]), np.stack([at, upper - 0.035 - 0.03 * (1 - s**2)], -1)
        image *= 1.0 - 0.30 * line(crease[2:-1], width=2, soft=1.4)[..., None]
        image *= 1.0 - 0.8 * line(edge + lash, width=3, soft=1.3)[..., None]
        image *= 1.0 - 0.35 * line(np.stack([at, lower + 0.004], -1), width=2, soft=1.2)[..., None]


def _brows(image: Array, who: Identity, random: np.random.Generator) -> None:
    """Hairs along the brow; landmarks 17..26 run along its upper part."""
    along = np.array([(0.17, -0.235), (0.38, -0.285), (0.58, -0.29), (0.78, -0.235), (0.93, -0.105)])
    thick = np.array([0.062, 0.062, 0.052, 0.036, 0.014]) * who.brow_thickness
    middle, half = _smooth(along, 80), np.interp(np.linspace(0, 4, 80), np.arange(5), thick)
    for side in (-1, 1):
        top, low = middle - np.stack([0 * half, half], -1), middle + np.stack([0 * half, 0.85 * half], -1)
        base = filled(np.concatenate([top, low[::-1]]) * [side, 1], soft=2.2)
        hairs = np.zeros_like(base)
        for _ in range(150):
            i = int(random.integers(80))
            root = middle[i] + [0, random.uniform(-0.8, 0.8) * half[i]]
            lean = np.array([0.055, -0.05 + 0.06 * i / 80 + random.normal(0, 0.015)]) * random.uniform(0.6, 1.1)
            cv2.polylines(hairs, [_texel_points(np.stack([root, root + lean]) * [side, 1])], False, 1.0, 1, cv2.LINE_AA, 4)
        mask = np.clip(0.62 * base + 0.5 * cv2.GaussianBlur(hairs, (3, 3), 0.7), 0, 1) * (0.55 + 0.4 * who.brow_density)
        mix(image, who.brows, mask)


def _texel_points(points: NDArray[np.floating]) -> NDArray[np.int32]:
    from facscale.data.synthetic.canvas import _fixed

    return _fixed(points)


def _beard(image: Array, who: Identity, random: np.random.Generator) -> None:
    x, y = texels()
    area = step(y, 0.95, 1.3) * step(np.abs(x), 0.15, 0.5) + blob(x, y, at=(0, 0.86), size=(0.3, 0.05)) + step(y, 1.42 + MOUTH_GAP * 0.6, 1.6)
    area += step(np.abs(x), 0.8, 1.0) * step(y, 0.4, 0.8)
    area = np.clip(area, 0, 1) * (1.0 - filled(_smooth(lip_points()[:12], closed=True), soft=2.5))
    grain = 0.75 + 0.25 * np.clip(noise(x.shape, scale=1.6, random=random), -1, 1.2)
    mix(image, 0.35 * who.skin + 0.45 * who.hair, np.clip(0.85 * who.beard * area * grain, 0, 0.9).astype(np.float32))


def _hair(image: Array, who: Identity, random: np.random.Generator) -> None:
    x, y = texels()
    mask = hair_mask(who)
    strands = noise((x.shape[0] // 16, x.shape[1]), scale=2.0, random=random)
    strands = cv2.resize(strands, x.shape[::-1], interpolation=cv2.INTER_CUBIC)
    tufts = cv2.resize(noise((x.shape[0] // 16, x.shape[1]), scale=9.0, random=random), x.shape[::-1], interpolation=cv2.INTER_CUBIC)
    colour = who.hair.astype(np.float32) * (1.0 + 0.22 * strands + 0.12 * tufts)[..., None]
    mix(image, np.clip(colour, 0, 1), np.clip(mask + 0.25 * strands * mask * (1 - mask) * 4, 0, 1))


def hair_mask(who: Identity) -> Array:
    """Where hair covers the skin patch, 0..1."""
    x, y = texels()
    angle = np.linspace(-125, 125, 9)
    del angle
    front = -1.08 - who.hairline + 0.14 * np.clip(np.abs(x) / 0.7, 0, 1.3) ** 2 * (1 - who.hairline)
    from facscale.data.synthetic.anatomy import template
    from facscale.data.synthetic.canvas import CELL, COLUMNS, ROWS

    phi = np.abs(cv2.resize(template().angle.reshape(ROWS + 1, COLUMNS + 1), None, fx=CELL, fy=CELL))
    side = -1.0 + 1.3 * step(phi, np.deg2rad(60), np.deg2rad(82)) + 0.5 * step(phi, np.deg2rad(92), np.deg2rad(110))
    edge = np.where(phi > np.deg2rad(58), np.maximum(side, front), front)
    return (1.0 - step(y - edge, -0.06, 0.05)).astype(np.float32)


def _alpha() -> Array:
    s = np.linspace(-1, 1, 60)
    alpha = np.ones(texels()[0].shape, np.float32)
    for side in (-1, 1):
        at = side * (EYE_X + EYE_HALF * s)
        upper, lower = eye_edges(at)
        alpha -= filled(np.concatenate([np.stack([at, upper], -1), np.stack([at, lower], -1)[::-1]]), soft=0.5)
    at = MOUTH_HALF * s
    upper, lower = mouth_edges(at)
    alpha -= filled(np.concatenate([np.stack([at, upper], -1), np.stack([at, lower], -1)[::-1]]), soft=0.5)
    return np.clip(alpha, 0, 1)
