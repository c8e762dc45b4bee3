"""Paints the skin of one person: tone, brows, lips, lids, nostrils, beard, hair; eyes and mouth stay transparent."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import cv2
import numpy as np
from scipy.interpolate import PchipInterpolator

from facscale.synthetic.anatomy import (
    EYE_HALF,
    EYE_X,
    MOUTH_GAP,
    MOUTH_HALF,
    MOUTH_Y,
    Array,
    blob,
    eye_edges,
    lip_points,
    mouth_edges,
    pair,
    step,
)
from facscale.synthetic.canvas import angle_texels, both_sides, filled, grain, line, mix, smooth, strokes, texels
from facscale.synthetic.identity import Identity


def paint_skin(who: Identity) -> Array:
    """RGBA [H, W, 4] in 0..1 of the skin patch."""
    random = np.random.default_rng(who.paint_seed)
    image = _tone(who, random)
    _folds(image, who)
    _lips(image, who, random)
    _nose(image)
    _lids(image)
    _beard(image, who, random)
    _brows(image, who, random)
    _hair(image, who, random)
    return np.concatenate([np.clip(image, 0, 1), _alpha()[..., None]], axis=-1)


def _tone(who: Identity, random: np.random.Generator) -> Array:
    x, y = texels()
    image = np.broadcast_to(who.skin.astype(np.float32), (*x.shape, 3)).copy()
    blush = 0.5 * pair(x, y, at=(0.62, 0.5), size=(0.25, 0.22)) + 0.25 * blob(x, y, at=(0, 0.6), size=(0.2, 0.18))
    image *= 1.0 + (blush * 0.16)[..., None] * np.array([0.6, -0.9, -0.8], np.float32)
    image *= 1.0 - 0.10 * step(np.abs(x), 0.75, 1.15)[..., None]
    rough = 0.5 + who.age
    for scale, strength in ((0.6, 0.02), (0.2, 0.012), (0.06, 0.012), (0.02, 0.022), (0.012, 0.02)):
        image *= 1.0 + strength * rough * grain(scale=scale, random=random)[..., None]
    image *= 1.0 + 0.02 * rough * grain(scale=0.25, random=random)[..., None] * np.array([0.3, -1, -0.8], np.float32)
    spots = np.clip(grain(scale=0.03, random=random) - 1.5, 0, 1) * (0.4 + 0.6 * np.exp(-(((y - 0.4) / 0.5) ** 2)))
    image *= 1.0 - (min(who.freckles, 1.5) * 0.45 * spots)[..., None] * np.array([0.5, 0.8, 1.0], np.float32)
    for _ in range(int(random.integers(0, 3))):
        at, size = (random.uniform(-0.9, 0.9), random.uniform(-0.6, 1.6)), random.uniform(0.012, 0.025)
        image *= 1.0 - 0.45 * blob(x, y, at=at, size=(size, size))[..., None]
    return image


def _folds(image: Array, who: Identity) -> None:
    """Shadows that the coarse light misses, and the lines of age."""
    x, y = texels()
    shade = 0.22 * pair(x, y, at=(0.27, 0.0), size=(0.08, 0.10)) + 0.10 * pair(x, y, at=(0.48, 0.16), size=(0.16, 0.05))
    shade += 0.15 * blob(x, y, at=(0, 1.36 + MOUTH_GAP), size=(0.2, 0.05)) + 0.10 * blob(
        x, y, at=(0, 0.8), size=(0.16, 0.05)
    )
    shade += 0.2 * step(y, 1.86, 1.9)
    lines = np.zeros_like(x)
    for curve in both_sides([(0.27, 0.66), (0.37, 0.78), (0.47, 0.95), (0.5, 1.04)]):
        lines += (0.05 + 0.22 * who.age) * line(curve, width=2, soft=3.0)
    for curve in both_sides([(0.34, 0.12), (0.45, 0.18), (0.58, 0.16)]):
        lines += (0.03 + 0.16 * who.age) * line(curve, width=2, soft=2.0)
    for height in (-0.62, -0.78):
        lines += (
            0.10
            * who.age
            * line(np.array([(-0.6, height + 0.03), (0, height), (0.6, height + 0.03)]), width=2, soft=1.5)
        )
    image *= (1.0 - shade)[..., None] ** np.array([0.8, 1.05, 1.1], np.float32)
    image *= 1.0 - lines[..., None]


def _lips(image: Array, who: Identity, random: np.random.Generator) -> None:
    x, y = texels()
    outer = lip_points()[:12]
    outline = np.concatenate([smooth(outer[:7]), smooth(np.concatenate([outer[6:], outer[:1]]))])
    mask = filled(outline, soft=1.6)
    colour = np.broadcast_to(who.lips.astype(np.float32), image.shape).copy()
    colour *= 1.0 + 0.05 * cv2.GaussianBlur(random.normal(size=x.shape).astype(np.float32), (1, 9), 2.0)[..., None] * 2
    upper, lower = mouth_edges(x)
    colour *= 1.0 - 0.16 * (y < upper)[..., None]  # the upper lip looks down
    colour *= 1.0 + 0.16 * blob(x, y, at=(0, 1.14 + MOUTH_GAP), size=(0.18, 0.03))[..., None]
    rim = np.exp(-np.abs(y - np.where(y < (upper + lower) / 2, upper, lower)) / 0.02) * (np.abs(x) < MOUTH_HALF + 0.01)
    colour *= 1.0 - 0.4 * rim[..., None]
    mix(image, colour, mask)
    for curve in both_sides([(MOUTH_HALF - 0.03, MOUTH_Y), (MOUTH_HALF + 0.03, MOUTH_Y + 0.005)]):
        image *= 1.0 - 0.4 * line(curve, width=2, soft=1.6)[..., None]


def _nose(image: Array) -> None:
    x, y = texels()
    shade = 0.75 * pair(x - 0.02 * np.sign(x), y, at=(0.105, 0.695), size=(0.05, 0.021))
    shade += 0.12 * blob(x, y, at=(0.0, 0.745), size=(0.17, 0.028))
    for curve in both_sides([(0.205, 0.53), (0.255, 0.6), (0.25, 0.68), (0.19, 0.715)]):
        shade += 0.25 * line(curve, width=2, soft=2.2)
    for curve in both_sides([(0.05, 0.8), (0.06, 0.9)]):
        shade += 0.05 * line(curve, width=3, soft=2.5)
    image *= np.clip(1.0 - shade, 0.05, 1)[..., None] ** np.array([0.9, 1.1, 1.1], np.float32)


def _lids(image: Array) -> None:
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
    along = np.array([(0.18, -0.245), (0.38, -0.275), (0.58, -0.275), (0.78, -0.215), (0.92, -0.1)])
    thick = np.array([0.045, 0.055, 0.048, 0.034, 0.012]) * who.brow_thickness
    middle, half = smooth(along, 80), np.interp(np.linspace(0, 4, 80), np.arange(5), thick)
    for side in (-1, 1):
        top, low = middle - np.stack([0 * half, half], -1), middle + np.stack([0 * half, 0.85 * half], -1)
        base = filled(np.concatenate([top, low[::-1]]) * [side, 1], soft=3.0)
        hairs = []
        for _ in range(170):
            i = int(random.integers(80))
            root = middle[i] + [0, random.uniform(-0.9, 0.9) * half[i]]
            lean = np.array([0.055, -0.05 + 0.06 * i / 80 + random.normal(0, 0.015)]) * random.uniform(0.6, 1.2)
            hairs.append(np.stack([root, root + lean]) * [side, 1])
        drawn = cv2.GaussianBlur(strokes(hairs), (3, 3), 0.7)
        mix(image, who.brows, np.clip(0.5 * base + 0.55 * drawn, 0, 1) * (0.5 + 0.4 * who.brow_density))


def _beard(image: Array, who: Identity, random: np.random.Generator) -> None:
    x, y = texels()
    area = (
        step(y, 0.95, 1.3) * step(np.abs(x), 0.15, 0.5)
        + blob(x, y, at=(0, 0.86), size=(0.3, 0.05))
        + step(y, 1.42 + MOUTH_GAP * 0.6, 1.6)
    )
    area += step(np.abs(x), 0.8, 1.0) * step(y, 0.4, 0.8)
    area = np.clip(area, 0, 1) * (1.0 - filled(smooth(lip_points()[:12], closed=True), soft=2.5))
    stubble = 0.75 + 0.25 * np.clip(grain(scale=0.012, random=random), -1, 1.2)
    mix(image, 0.35 * who.skin + 0.45 * who.hair, np.clip(0.85 * who.beard * area * stubble, 0, 0.9).astype(np.float32))


def _hair(image: Array, who: Identity, random: np.random.Generator) -> None:
    """Strands that fan out from the crown, combed to both sides of a parting."""
    y, phi = texels()[1], angle_texels()
    mask = hair_mask(who)
    combed = phi + who.comb * np.tanh((phi - who.parting) / 0.15) * (y + 1.9) * 0.5
    along = (combed + 3.2) / 6.4
    fine, tufts = (random.normal(size=(1, n)).astype(np.float32) for n in (640, 90))
    strands, locks = (
        cv2.remap(a, along * a.shape[1], 0 * y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) for a in (fine, tufts)
    )
    curls = grain(scale=0.06, random=random) + grain(scale=0.03, random=random)
    strands, locks = (1 - who.curl) * strands + who.curl * curls, (1 - 0.7 * who.curl) * locks
    shine = 0.35 * (1 - who.curl) * np.exp(-(((y + 1.3 + 0.05 * locks) / 0.16) ** 2)) * np.exp(-((phi / 0.9) ** 2))
    colour = (who.hair.astype(np.float32) + 0.04) * (1.0 + 0.2 * strands + 0.16 * locks + shine)[..., None]
    edge = np.clip(mask + (0.30 * strands + 0.25 * locks) * mask * (1 - mask) * 4, 0, 1)
    image *= 1.0 - 0.25 * cv2.GaussianBlur(mask, (0, 0), 7)[..., None] * (1 - mask[..., None])
    mix(image, np.clip(colour, 0, 1), edge)


def hair_mask(who: Identity) -> Array:
    """Where hair covers the skin patch, 0..1."""
    y, phi = texels()[1], angle_texels()
    degrees = np.array([0, 22, 42, 56, 66, 76, 84, 92, 102, 112, 126])
    front = -1.06 - who.hairline
    heights = np.array([front, front + 0.02, front + 0.1, 0.5 * front - 0.3, -0.5, -0.05, 0.22, 0.1, 0.5, 0.95, 1.1])
    columns = np.degrees(phi[0])
    heights[:5] += who.wave * np.cos(degrees[:5] / 9)
    line_ = PchipInterpolator(degrees, heights)(
        np.abs(columns - 0.25 * np.degrees(who.parting) * np.exp(-((columns / 40) ** 2)))
    )
    return (1.0 - step(y - line_[None], -0.07, 0.05)).astype(np.float32)


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
