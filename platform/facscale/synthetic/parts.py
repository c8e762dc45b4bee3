"""The parts behind the skin (eyeballs, teeth, mouth, ears, neck, clothes, long hair): their shapes and textures."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.anatomy import CELL, MOUTH_HALF, MOUTH_Y, Array, blob, smoothstep
from facscale.synthetic.canvas import ATLAS, BEHIND, SKIN, Patch, blend, make_noise
from facscale.synthetic.identity import Identity
from facscale.synthetic.skin import paint_skin

EYEBALL = 0.195  # radius
_CAP = np.deg2rad(62)  # half angle of the eyeball's patch


def _make_unit_grid(patch: Patch) -> tuple[Array, Array]:
    """Flat coordinates (columns, rows) in [-1, 1] of the patch's vertices."""
    a, b = np.meshgrid(np.linspace(-1, 1, patch.columns + 1), np.linspace(-1, 1, patch.rows + 1))
    return a.ravel(), b.ravel()


def make_eyeball(patch: Patch) -> Array:
    """Vertices [n, 3] around the centre of the eyeball, looking along +z."""
    a, b = _make_unit_grid(patch)
    sx, sy = np.sin(a * _CAP), np.sin(b * _CAP)
    r = np.sqrt(np.clip(1 - 0.98 * np.clip(sx**2 + sy**2, 0, 1), 0, 1))
    return EYEBALL * np.stack([sx, sy, r], axis=-1)


def _make_mouth(patch: Patch) -> Array:
    a, b = _make_unit_grid(patch)
    return np.stack([a * (MOUTH_HALF + 0.12), MOUTH_Y + 0.02 + 0.26 * b, 1.18 + 0 * a], axis=-1)


def _make_teeth(patch: Patch, *, upper: bool) -> Array:
    a, b = _make_unit_grid(patch)
    y = (MOUTH_Y - 0.04 if upper else MOUTH_Y + 0.155) + 0.08 * b
    return np.stack([a * 0.31, y + 0.015 * (1 - a**2) * (1 if upper else -1), 1.42 - 0.22 * a**2], axis=-1)


def _make_ear(patch: Patch, side: int) -> Array:
    a, b = _make_unit_grid(patch)
    x = 1.08 + 0.11 * (a + 1) * (1 - 0.35 * smoothstep(b, 0.1, 1.0)) * np.sqrt(np.clip(1 - 0.8 * b**2, 0, 1))
    return np.stack([side * x, 0.24 + 0.42 * b - 0.05 * (a + 1), -0.05 - 0.16 * (a + 1)], axis=-1)


def _make_bust(patch: Patch) -> Array:
    a, b = _make_unit_grid(patch)
    y = 1.0 + 3.2 * (b + 1) / 2
    half = 0.74 + 0.12 * smoothstep(y, 1.7, 2.3) + 1.75 * smoothstep(y, 2.1, 3.2) ** 0.8
    phi = a * np.deg2rad(90)
    depth = 0.55 + 0.35 * smoothstep(y, 2.2, 3.4)
    return np.stack(
        [
            half * np.sin(phi),
            y - 0.25 * smoothstep(np.abs(a), 0.3, 1.0) * smoothstep(y, 2.1, 2.6),
            -0.15 + depth * np.cos(phi),
        ],
        axis=-1,
    )


def _make_mane(patch: Patch, identity: Identity) -> Array:
    a, b = _make_unit_grid(patch)
    low = 0.2 + 2.2 * identity.long_hair
    y = -1.75 - identity.volume + (low + 1.75 + identity.volume) * (b + 1) / 2
    half = (1.1 + identity.volume + 0.18 * min(identity.long_hair, 0.6)) * np.sqrt(
        np.clip(1 - np.clip((-0.6 - y) / 1.2, 0, 1) ** 2, 0, 1)
    )
    half *= 1.0 if identity.long_hair else 0.9
    return np.stack([a * half, y, -0.5 + 0.3 * np.cos(a * 1.5)], axis=-1)


def make_shapes(identity: Identity) -> Array:
    """Vertices [n, 3] of all patches behind the skin, in the order of `BEHIND`, in head coordinates; eyeballs around 0."""
    sides = {"ear left": -1, "ear right": 1}
    out = []
    for patch in BEHIND:
        if patch.name.startswith("eye"):
            out.append(make_eyeball(patch))
        elif patch.name in sides:
            out.append(_make_ear(patch, sides[patch.name]))
        elif patch.name.endswith("teeth"):
            out.append(_make_teeth(patch, upper=patch.name.startswith("upper")))
        else:
            out.append(
                {"mouth": _make_mouth, "bust": _make_bust}[patch.name](patch)
                if patch.name != "mane"
                else _make_mane(patch, identity)
            )
    return np.concatenate(out).astype(np.float32)


def _make_texel_grid(patch: Patch) -> tuple[Array, Array]:
    """Coordinates (columns, rows) in [-1, 1] of the patch's texels, each [H, W]."""
    rows, columns = ((n + 1) * CELL for n in (patch.rows, patch.columns))
    a, b = np.meshgrid(
        np.arange(columns) / (patch.columns * CELL) * 2 - 1, np.arange(rows) / (patch.rows * CELL) * 2 - 1
    )
    return a.astype(np.float32), b.astype(np.float32)


def _paint_eye(patch: Patch, identity: Identity, random: np.random.Generator) -> Array:
    a, b = _make_texel_grid(patch)
    r = np.hypot(np.sin(a * _CAP), np.sin(b * _CAP))
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = np.array([0.86, 0.82, 0.80]) * 0.95
    blend(image, np.array([0.78, 0.55, 0.50]), 0.5 * smoothstep(np.abs(a), 0.72, 1.05))
    image *= 1.0 - 0.35 * smoothstep(-b, 0.1, 0.9)[..., None]  # shadow of the upper lid
    angle = np.arctan2(b, a)
    rays = 0.25 * np.sin(angle * 23 + 3 * make_noise(a.shape, scale=6, random=random)) * smoothstep(r, 0.15, 0.4)
    iris = identity.iris.astype(np.float32) * (1.15 + rays - 0.9 * smoothstep(r, 0.40, 0.52))[..., None]
    blend(image, np.clip(iris, 0, 1), 1 - smoothstep(r, 0.47, 0.53))
    blend(image, np.array([0.02, 0.02, 0.02]), 1 - smoothstep(r, 0.19, 0.24))
    blend(image, np.array([1.0, 1.0, 1.0]), 0.9 * (1 - smoothstep(np.hypot(a + 0.16, b + 0.2), 0.06, 0.13)))
    return image


def _paint_teeth(patch: Patch, *, upper: bool) -> Array:
    a, b = _make_texel_grid(patch)
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = np.array([0.93, 0.90, 0.84])
    gaps = np.abs((a * 4.0 + 0.0) - np.round(a * 4.0))
    image *= (0.82 + 0.18 * smoothstep(gaps, 0.02, 0.14))[..., None] * (1 - 0.55 * np.abs(a) ** 3)[..., None]
    gum = smoothstep(-b if upper else b, 0.35, 0.8)
    blend(image, np.array([0.72, 0.36, 0.36]), gum)
    return image * (0.92 if upper else 0.7)


def _paint_mouth(patch: Patch) -> Array:
    a, b = _make_texel_grid(patch)
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = np.array([0.10, 0.035, 0.035])
    blend(image, np.array([0.42, 0.17, 0.17]), blob(a, b, at=(0, 0.75), size=(0.35, 0.22)).astype(np.float32))
    return image


def _paint_ear(patch: Patch, identity: Identity) -> Array:
    a, b = _make_texel_grid(patch)
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = identity.skin * [1.0, 0.88, 0.86]
    shade = 0.3 * blob(a, b, at=(-0.1, 0.05), size=(0.3, 0.35)) + 0.18 * np.exp(-(((a - 0.45) / 0.14) ** 2)) * (b < 0.5)
    shade += 0.25 * (1 - smoothstep(a, -1.0, -0.5))
    return image * (1 - np.clip(shade, 0, 0.7))[..., None]


def _paint_bust(patch: Patch, identity: Identity, random: np.random.Generator) -> Array:
    a, b = _make_texel_grid(patch)
    y = 1.0 + 3.2 * (b + 1) / 2
    image = np.empty((*a.shape, 3), np.float32)
    image[:] = identity.skin * 0.9
    image *= (1 - 0.55 * (1 - smoothstep(y, 1.75, 2.5)))[..., None] ** np.array([0.85, 1.05, 1.1], np.float32)
    weave = (
        1 + 0.03 * make_noise(a.shape, scale=1.5, random=random) + 0.04 * make_noise(a.shape, scale=30, random=random)
    )
    neck = 2.12 + random.uniform(0.25, 0.75) * np.clip(1 - (a / 0.6) ** 2, 0, 1)
    blend(image, np.clip(identity.cloth * weave[..., None], 0, 1), smoothstep(y, neck, neck + 0.05))
    return image * (1 - 0.25 * np.exp(-np.abs(y - neck) / 0.03))[..., None]


def _paint_mane(patch: Patch, identity: Identity, random: np.random.Generator) -> Array:
    a, b = _make_texel_grid(patch)
    strands = cv2.resize(
        make_noise((4, a.shape[1]), scale=1.6, random=random), a.shape[::-1], interpolation=cv2.INTER_CUBIC
    )
    image = np.clip(
        (identity.hair + 0.02) * (0.72 + 0.2 * strands)[..., None] * (1 - 0.25 * np.abs(b))[..., None], 0, 1
    )
    ends = 0.9 - 0.3 * a**2 + 0.02 * strands
    return np.concatenate([image, 1 - smoothstep(b - ends, -0.06, 0.04)[..., None]], axis=-1).astype(np.float32)


def paint_atlas(identity: Identity) -> NDArray[np.uint8]:
    """Paint the complete texture atlas, RGBA uint8 [*ATLAS, 4]."""
    random = np.random.default_rng(identity.paint_seed + 1)
    atlas = np.zeros((*ATLAS, 4), np.float32)
    atlas[..., 3] = 1.0
    atlas[SKIN.area] = paint_skin(identity)
    for patch in BEHIND:
        if patch.name.startswith("eye"):
            image = _paint_eye(patch, identity, random)
        elif patch.name.endswith("teeth"):
            image = _paint_teeth(patch, upper=patch.name.startswith("upper"))
        elif patch.name.startswith("ear"):
            image = _paint_ear(patch, identity)
        elif patch.name == "bust":
            image = _paint_bust(patch, identity, random)
        else:
            image = _paint_mouth(patch) if patch.name == "mouth" else _paint_mane(patch, identity, random)
        atlas[patch.area][..., : image.shape[-1]] = image
    return np.round(np.clip(atlas, 0, 1) * 255).astype(np.uint8)
