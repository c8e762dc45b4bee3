"""The skin texture of a person: tone, brows, lips, lids, nostrils, beard and hair; eyes and mouth are transparent."""

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
    blob_pair,
    get_eye_edges,
    get_lip_points,
    get_mouth_edges,
    smoothstep,
)
from facscale.synthetic.canvas import (
    blend,
    draw_curve,
    draw_strokes,
    fill_outline,
    get_texel_angles,
    get_texel_chart,
    make_grain,
    mirror_curve,
    smooth_curve,
)
from facscale.synthetic.identity import Identity


def paint_skin(identity: Identity) -> Array:
    """Paint the skin patch, RGBA [H, W, 4] in 0..1."""
    random = np.random.default_rng(identity.paint_seed)
    image = _paint_tone(identity, random)
    _paint_folds(image, identity)
    _paint_lips(image, identity, random)
    _paint_nose(image)
    _paint_lids(image)
    _paint_beard(image, identity, random)
    _paint_brows(image, identity, random)
    _paint_hair(image, identity, random)
    return np.concatenate([np.clip(image, 0, 1), _make_alpha()[..., None]], axis=-1)


def _paint_tone(identity: Identity, random: np.random.Generator) -> Array:
    x, y = get_texel_chart()
    image = np.broadcast_to(identity.skin.astype(np.float32), (*x.shape, 3)).copy()
    blush = 0.5 * blob_pair(x, y, at=(0.62, 0.5), size=(0.25, 0.22)) + 0.25 * blob(x, y, at=(0, 0.6), size=(0.2, 0.18))
    image *= 1.0 + (blush * 0.16)[..., None] * np.array([0.6, -0.9, -0.8], np.float32)
    image *= 1.0 - 0.10 * smoothstep(np.abs(x), 0.75, 1.15)[..., None]
    rough = 0.5 + identity.age
    for scale, strength in ((0.6, 0.02), (0.2, 0.012), (0.06, 0.012), (0.02, 0.022), (0.012, 0.02)):
        image *= 1.0 + strength * rough * make_grain(scale=scale, random=random)[..., None]
    image *= 1.0 + 0.02 * rough * make_grain(scale=0.25, random=random)[..., None] * np.array(
        [0.3, -1, -0.8], np.float32
    )
    spots = np.clip(make_grain(scale=0.03, random=random) - 1.5, 0, 1) * (0.4 + 0.6 * np.exp(-(((y - 0.4) / 0.5) ** 2)))
    image *= 1.0 - (min(identity.freckles, 1.5) * 0.45 * spots)[..., None] * np.array([0.5, 0.8, 1.0], np.float32)
    for _ in range(int(random.integers(0, 3))):
        at, size = (random.uniform(-0.9, 0.9), random.uniform(-0.6, 1.6)), random.uniform(0.012, 0.025)
        image *= 1.0 - 0.45 * blob(x, y, at=at, size=(size, size))[..., None]
    return image


def _paint_folds(image: Array, identity: Identity) -> None:
    """Paint shadows finer than the light's resolution, and the lines of age."""
    x, y = get_texel_chart()
    inner_eyes = blob_pair(x, y, at=(0.27, 0.0), size=(0.08, 0.10))
    below_eyes = blob_pair(x, y, at=(0.48, 0.16), size=(0.16, 0.05))
    chin, philtrum = blob(x, y, at=(0, 1.36 + MOUTH_GAP), size=(0.2, 0.05)), blob(x, y, at=(0, 0.8), size=(0.16, 0.05))
    shade = 0.22 * inner_eyes + 0.10 * below_eyes
    shade += 0.15 * chin + 0.10 * philtrum
    shade += 0.2 * smoothstep(y, 1.86, 1.9)
    lines = np.zeros_like(x)
    for curve in mirror_curve([(0.27, 0.66), (0.37, 0.78), (0.47, 0.95), (0.5, 1.04)]):
        lines += (0.05 + 0.22 * identity.age) * draw_curve(curve, width=2, soft=3.0)
    for curve in mirror_curve([(0.34, 0.12), (0.45, 0.18), (0.58, 0.16)]):
        lines += (0.03 + 0.16 * identity.age) * draw_curve(curve, width=2, soft=2.0)
    for height in (-0.62, -0.78):
        wrinkle = np.array([(-0.6, height + 0.03), (0, height), (0.6, height + 0.03)])
        lines += 0.10 * identity.age * draw_curve(wrinkle, width=2, soft=1.5)
    image *= (1.0 - shade)[..., None] ** np.array([0.8, 1.05, 1.1], np.float32)
    image *= 1.0 - lines[..., None]


def _paint_lips(image: Array, identity: Identity, random: np.random.Generator) -> None:
    x, y = get_texel_chart()
    outer = get_lip_points()[:12]
    outline = np.concatenate([smooth_curve(outer[:7]), smooth_curve(np.concatenate([outer[6:], outer[:1]]))])
    mask = fill_outline(outline, soft=1.6)
    colour = np.broadcast_to(identity.lips.astype(np.float32), image.shape).copy()
    colour *= 1.0 + 0.05 * cv2.GaussianBlur(random.normal(size=x.shape).astype(np.float32), (1, 9), 2.0)[..., None] * 2
    upper, lower = get_mouth_edges(x)
    colour *= 1.0 - 0.16 * (y < upper)[..., None]  # the upper lip faces down
    colour *= 1.0 + 0.16 * blob(x, y, at=(0, 1.14 + MOUTH_GAP), size=(0.18, 0.03))[..., None]
    rim = np.exp(-np.abs(y - np.where(y < (upper + lower) / 2, upper, lower)) / 0.02) * (np.abs(x) < MOUTH_HALF + 0.01)
    colour *= 1.0 - 0.4 * rim[..., None]
    blend(image, colour, mask)
    for curve in mirror_curve([(MOUTH_HALF - 0.03, MOUTH_Y), (MOUTH_HALF + 0.03, MOUTH_Y + 0.005)]):
        image *= 1.0 - 0.4 * draw_curve(curve, width=2, soft=1.6)[..., None]


def _paint_nose(image: Array) -> None:
    x, y = get_texel_chart()
    shade = 0.75 * blob_pair(x - 0.02 * np.sign(x), y, at=(0.105, 0.695), size=(0.05, 0.021))
    shade += 0.12 * blob(x, y, at=(0.0, 0.745), size=(0.17, 0.028))
    for curve in mirror_curve([(0.205, 0.53), (0.255, 0.6), (0.25, 0.68), (0.19, 0.715)]):
        shade += 0.25 * draw_curve(curve, width=2, soft=2.2)
    for curve in mirror_curve([(0.05, 0.8), (0.06, 0.9)]):
        shade += 0.05 * draw_curve(curve, width=3, soft=2.5)
    image *= np.clip(1.0 - shade, 0.05, 1)[..., None] ** np.array([0.9, 1.1, 1.1], np.float32)


def _paint_lids(image: Array) -> None:
    s = np.linspace(-1, 1, 40)
    for side in (-1, 1):
        at = side * (EYE_X + EYE_HALF * s)
        upper, lower = get_eye_edges(at)
        edge = np.stack([at, upper], -1)
        lash, crease = np.array([0.0, 0.0]), np.stack([at, upper - 0.035 - 0.03 * (1 - s**2)], -1)
        image *= 1.0 - 0.30 * draw_curve(crease[2:-1], width=2, soft=1.4)[..., None]
        image *= 1.0 - 0.8 * draw_curve(edge + lash, width=3, soft=1.3)[..., None]
        image *= 1.0 - 0.35 * draw_curve(np.stack([at, lower + 0.004], -1), width=2, soft=1.2)[..., None]


def _paint_brows(image: Array, identity: Identity, random: np.random.Generator) -> None:
    """Paint hairs along the brow; landmarks 17 to 26 lie on its upper part."""
    along = np.array([(0.18, -0.245), (0.38, -0.275), (0.58, -0.275), (0.78, -0.215), (0.92, -0.1)])
    thick = np.array([0.045, 0.055, 0.048, 0.034, 0.012]) * identity.brow_thickness
    middle, half = smooth_curve(along, 80), np.interp(np.linspace(0, 4, 80), np.arange(5), thick)
    for side in (-1, 1):
        top, low = middle - np.stack([0 * half, half], -1), middle + np.stack([0 * half, 0.85 * half], -1)
        base = fill_outline(np.concatenate([top, low[::-1]]) * [side, 1], soft=3.0)
        hairs = []
        for _ in range(170):
            i = int(random.integers(80))
            root = middle[i] + [0, random.uniform(-0.9, 0.9) * half[i]]
            lean = np.array([0.055, -0.05 + 0.06 * i / 80 + random.normal(0, 0.015)]) * random.uniform(0.6, 1.2)
            hairs.append(np.stack([root, root + lean]) * [side, 1])
        strokes = cv2.GaussianBlur(draw_strokes(hairs), (3, 3), 0.7)
        blend(image, identity.brows, np.clip(0.5 * base + 0.55 * strokes, 0, 1) * (0.5 + 0.4 * identity.brow_density))


def _paint_beard(image: Array, identity: Identity, random: np.random.Generator) -> None:
    x, y = get_texel_chart()
    area = (
        smoothstep(y, 0.95, 1.3) * smoothstep(np.abs(x), 0.15, 0.5)
        + blob(x, y, at=(0, 0.86), size=(0.3, 0.05))
        + smoothstep(y, 1.42 + MOUTH_GAP * 0.6, 1.6)
    )
    area += smoothstep(np.abs(x), 0.8, 1.0) * smoothstep(y, 0.4, 0.8)
    area = np.clip(area, 0, 1) * (1.0 - fill_outline(smooth_curve(get_lip_points()[:12], closed=True), soft=2.5))
    stubble = 0.75 + 0.25 * np.clip(make_grain(scale=0.012, random=random), -1, 1.2)
    blend(
        image,
        0.35 * identity.skin + 0.45 * identity.hair,
        np.clip(0.85 * identity.beard * area * stubble, 0, 0.9).astype(np.float32),
    )


def _paint_hair(image: Array, identity: Identity, random: np.random.Generator) -> None:
    """Paint strands that fan out from the crown, combed to both sides of the parting."""
    y, phi = get_texel_chart()[1], get_texel_angles()
    mask = make_hair_mask(identity)
    combed = phi + identity.comb * np.tanh((phi - identity.parting) / 0.15) * (y + 1.9) * 0.5
    along = (combed + 3.2) / 6.4
    fine, tufts = (random.normal(size=(1, n)).astype(np.float32) for n in (640, 90))
    strands, locks = (
        cv2.remap(a, along * a.shape[1], 0 * y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) for a in (fine, tufts)
    )
    curls = make_grain(scale=0.06, random=random) + make_grain(scale=0.03, random=random)
    strands, locks = (1 - identity.curl) * strands + identity.curl * curls, (1 - 0.7 * identity.curl) * locks
    shine = 0.35 * (1 - identity.curl) * np.exp(-(((y + 1.3 + 0.05 * locks) / 0.16) ** 2)) * np.exp(-((phi / 0.9) ** 2))
    colour = (identity.hair.astype(np.float32) + 0.04) * (1.0 + 0.2 * strands + 0.16 * locks + shine)[..., None]
    edge = np.clip(mask + (0.30 * strands + 0.25 * locks) * mask * (1 - mask) * 4, 0, 1)
    image *= 1.0 - 0.25 * cv2.GaussianBlur(mask, (0, 0), 7)[..., None] * (1 - mask[..., None])
    blend(image, np.clip(colour, 0, 1), edge)


def make_hair_mask(identity: Identity) -> Array:
    """Opacity 0..1 of the hair on the skin patch."""
    y, phi = get_texel_chart()[1], get_texel_angles()
    degrees = np.array([0, 22, 42, 56, 66, 76, 84, 92, 102, 112, 126])
    front = -1.06 - identity.hairline
    heights = np.array([front, front + 0.02, front + 0.1, 0.5 * front - 0.3, -0.5, -0.05, 0.22, 0.1, 0.5, 0.95, 1.1])
    columns = np.degrees(phi[0])
    heights[:5] += identity.wave * np.cos(degrees[:5] / 9)
    hairline = PchipInterpolator(degrees, heights)(
        np.abs(columns - 0.25 * np.degrees(identity.parting) * np.exp(-((columns / 40) ** 2)))
    )
    return (1.0 - smoothstep(y - hairline[None], -0.07, 0.05)).astype(np.float32)


def _make_alpha() -> Array:
    s = np.linspace(-1, 1, 60)
    alpha = np.ones(get_texel_chart()[0].shape, np.float32)
    for side in (-1, 1):
        at = side * (EYE_X + EYE_HALF * s)
        upper, lower = get_eye_edges(at)
        alpha -= fill_outline(np.concatenate([np.stack([at, upper], -1), np.stack([at, lower], -1)[::-1]]), soft=0.5)
    at = MOUTH_HALF * s
    upper, lower = get_mouth_edges(at)
    alpha -= fill_outline(np.concatenate([np.stack([at, upper], -1), np.stack([at, lower], -1)[::-1]]), soft=0.5)
    return np.clip(alpha, 0, 1)
