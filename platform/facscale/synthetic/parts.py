"""What lies behind the skin: eyeballs, teeth, mouth, ears, neck, clothes, the mane; their shape and their paint."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.anatomy import CELL, MOUTH_HALF, MOUTH_Y, Array, blob, step
from facscale.synthetic.canvas import ATLAS, BEHIND, SKIN, Patch, mix, noise
from facscale.synthetic.identity import Identity
from facscale.synthetic.skin import paint_skin

EYEBALL = 0.195  # radius
_CAP = np.deg2rad(62)  # half angle of the eyeball's patch


def _unit(patch: Patch) -> tuple[Array, Array]:
    """Grid in [-1, 1] x [-1, 1] (columns, rows), flat."""
    a, b = np.meshgrid(np.linspace(-1, 1, patch.columns + 1), np.linspace(-1, 1, patch.rows + 1))
    return a.ravel(), b.ravel()


def eyeball(patch: Patch) -> Array:
    """[n, 3] around its own centre, looking along +z."""
    a, b = _unit(patch)
    sx, sy = np.sin(a * _CAP), np.sin(b * _CAP)
    r = np.sqrt(np.clip(1 - 0.98 * np.clip(sx**2 + sy**2, 0, 1), 0, 1))
    return EYEBALL * np.stack([sx, sy, r], axis=-1)


def _mouth(patch: Patch) -> Array:
    a, b = _unit(patch)
    return np.stack([a * (MOUTH_HALF + 0.12), MOUTH_Y + 0.02 + 0.26 * b, 1.18 + 0 * a], axis=-1)


def _teeth(patch: Patch, *, upper: bool) -> Array:
    a, b = _unit(patch)
    y = (MOUTH_Y - 0.04 if upper else MOUTH_Y + 0.155) + 0.08 * b
    return np.stack([a * 0.31, y + 0.015 * (1 - a**2) * (1 if upper else -1), 1.42 - 0.22 * a**2], axis=-1)


def _ear(patch: Patch, side: int) -> Array:
    a, b = _unit(patch)
    x = 1.08 + 0.11 * (a + 1) * (1 - 0.35 * step(b, 0.1, 1.0)) * np.sqrt(np.clip(1 - 0.8 * b**2, 0, 1))
    return np.stack([side * x, 0.24 + 0.42 * b - 0.05 * (a + 1), -0.05 - 0.16 * (a + 1)], axis=-1)


def _bust(patch: Patch) -> Array:
    a, b = _unit(patch)
    y = 1.0 + 3.2 * (b + 1) / 2
    half = 0.74 + 0.12 * step(y, 1.7, 2.3) + 1.75 * step(y, 2.1, 3.2) ** 0.8
    phi = a * np.deg2rad(90)
    depth = 0.55 + 0.35 * step(y, 2.2, 3.4)
    return np.stack(
        [half * np.sin(phi), y - 0.25 * step(np.abs(a), 0.3, 1.0) * step(y, 2.1, 2.6), -0.15 + depth * np.cos(phi)],
        axis=-1,
    )


def _mane(patch: Patch, who: Identity) -> Array:
    a, b = _unit(patch)
    low = 0.2 + 2.2 * who.long_hair
    y = -1.75 - who.volume + (low + 1.75 + who.volume) * (b + 1) / 2
    half = (1.1 + who.volume + 0.18 * min(who.long_hair, 0.6)) * np.sqrt(
        np.clip(1 - np.clip((-0.6 - y) / 1.2, 0, 1) ** 2, 0, 1)
    )
    half *= 1.0 if who.long_hair else 0.9
    return np.stack([a * half, y, -0.5 + 0.3 * np.cos(a * 1.5)], axis=-1)


def shapes(who: Identity) -> Array:
    """Vertices [n, 3] of all patches behind the skin, in the order of `BEHIND`, in head coordinates; eyes about 0."""
    sides = {"ear left": -1, "ear right": 1}
    out = []
    for patch in BEHIND:
        if patch.name.startswith("eye"):
            out.append(eyeball(patch))
        elif patch.name in sides:
            out.append(_ear(patch, sides[patch.name]))
        elif patch.name.endswith("teeth"):
            out.append(_teeth(patch, upper=patch.name.startswith("upper")))
        else:
            out.append(
                {"mouth": _mouth, "bust": _bust}[patch.name](patch) if patch.name != "mane" else _mane(patch, who)
            )
    return np.concatenate(out).astype(np.float32)


def _texel_grid(patch: Patch) -> tuple[Array, Array]:
    """[-1, 1] coordinates (columns, rows) of the patch's texels."""
    rows, columns = ((n + 1) * CELL for n in (patch.rows, patch.columns))
    a, b = np.meshgrid(
        np.arange(columns) / (patch.columns * CELL) * 2 - 1, np.arange(rows) / (patch.rows * CELL) * 2 - 1
    )
    return a.astype(np.float32), b.astype(np.float32)


def _paint_eye(patch: Patch, who: Identity, random: np.random.Generator) -> Array:
    a, b = _texel_grid(patch)
    r = np.hypot(np.sin(a * _CAP), np.sin(b * _CAP))
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = np.array([0.86, 0.82, 0.80]) * 0.95
    mix(image, np.array([0.78, 0.55, 0.50]), 0.5 * step(np.abs(a), 0.72, 1.05))
    image *= 1.0 - 0.35 * step(-b, 0.1, 0.9)[..., None]  # the upper lid's shadow
    angle = np.arctan2(b, a)
    rays = 0.25 * np.sin(angle * 23 + 3 * noise(a.shape, scale=6, random=random)) * step(r, 0.15, 0.4)
    iris = who.iris.astype(np.float32) * (1.15 + rays - 0.9 * step(r, 0.40, 0.52))[..., None]
    mix(image, np.clip(iris, 0, 1), 1 - step(r, 0.47, 0.53))
    mix(image, np.array([0.02, 0.02, 0.02]), 1 - step(r, 0.19, 0.24))
    mix(image, np.array([1.0, 1.0, 1.0]), 0.9 * (1 - step(np.hypot(a + 0.16, b + 0.2), 0.06, 0.13)))
    return image


def _paint_teeth(patch: Patch, *, upper: bool) -> Array:
    a, b = _texel_grid(patch)
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = np.array([0.93, 0.90, 0.84])
    gaps = np.abs((a * 4.0 + 0.0) - np.round(a * 4.0))
    image *= (0.82 + 0.18 * step(gaps, 0.02, 0.14))[..., None] * (1 - 0.55 * np.abs(a) ** 3)[..., None]
    gum = step(-b if upper else b, 0.35, 0.8)
    mix(image, np.array([0.72, 0.36, 0.36]), gum)
    return image * (0.92 if upper else 0.7)


def _paint_mouth(patch: Patch) -> Array:
    a, b = _texel_grid(patch)
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = np.array([0.10, 0.035, 0.035])
    mix(image, np.array([0.42, 0.17, 0.17]), blob(a, b, at=(0, 0.75), size=(0.35, 0.22)).astype(np.float32))
    return image


def _paint_ear(patch: Patch, who: Identity) -> Array:
    a, b = _texel_grid(patch)
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = who.skin * [1.0, 0.88, 0.86]
    shade = 0.3 * blob(a, b, at=(-0.1, 0.05), size=(0.3, 0.35)) + 0.18 * np.exp(-(((a - 0.45) / 0.14) ** 2)) * (b < 0.5)
    shade += 0.25 * (1 - step(a, -1.0, -0.5))
    return image * (1 - np.clip(shade, 0, 0.7))[..., None]


def _paint_bust(patch: Patch, who: Identity, random: np.random.Generator) -> Array:
    a, b = _texel_grid(patch)
    y = 1.0 + 3.2 * (b + 1) / 2
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = who.skin * 0.9
    image *= (1 - 0.55 * (1 - step(y, 1.75, 2.5)))[..., None] ** np.array([0.85, 1.05, 1.1], np.float32)
    weave = 1 + 0.03 * noise(a.shape, scale=1.5, random=random) + 0.04 * noise(a.shape, scale=30, random=random)
    neck = 2.12 + random.uniform(0.25, 0.75) * np.clip(1 - (a / 0.6) ** 2, 0, 1)
    mix(image, np.clip(who.cloth * weave[..., None], 0, 1), step(y, neck, neck + 0.05))
    return image * (1 - 0.25 * np.exp(-np.abs(y - neck) / 0.03))[..., None]


def _paint_mane(patch: Patch, who: Identity, random: np.random.Generator) -> Array:
    a, b = _texel_grid(patch)
    strands = cv2.resize(noise((4, a.shape[1]), scale=1.6, random=random), a.shape[::-1], interpolation=cv2.INTER_CUBIC)
    image = np.clip((who.hair + 0.02) * (0.72 + 0.2 * strands)[..., None] * (1 - 0.25 * np.abs(b))[..., None], 0, 1)
    ends = 0.9 - 0.3 * a**2 + 0.02 * strands
    return np.concatenate([image, 1 - step(b - ends, -0.06, 0.04)[..., None]], axis=-1).astype(np.float32)


def paint(who: Identity) -> NDArray[np.uint8]:
    """The whole atlas, RGBA uint8 [*ATLAS, 4]."""
    random = np.random.default_rng(who.paint_seed + 1)
    atlas = np.zeros((*ATLAS, 4), np.float32)
    atlas[..., 3] = 1.0
    atlas[SKIN.texels] = paint_skin(who)
    for patch in BEHIND:
        if patch.name.startswith("eye"):
            image = _paint_eye(patch, who, random)
        elif patch.name.endswith("teeth"):
            image = _paint_teeth(patch, upper=patch.name.startswith("upper"))
        elif patch.name.startswith("ear"):
            image = _paint_ear(patch, who)
        elif patch.name == "bust":
            image = _paint_bust(patch, who, random)
        else:
            image = _paint_mouth(patch) if patch.name == "mouth" else _paint_mane(patch, who, random)
        atlas[patch.texels][..., : image.shape[-1]] = image
    return np.round(np.clip(atlas, 0, 1) * 255).astype(np.uint8)
