"""The 15 action units of AUNet's Table I: how each moves the skin, and which wrinkles it draws.

A movement is a field [V, 3] over the template, in eye distances at intensity 5; lids have two coordinates of their own.
"""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from facscale.synthetic.anatomy import Array, blob, pair, step, template

AUS: tuple[int, ...] = (1, 2, 4, 6, 7, 9, 10, 12, 14, 15, 17, 23, 24, 25, 26)

# EMFACS co-occurrences, AUNet's Table II.
EMOTIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "happiness": ((6, 12), (7, 12)),
    "anger": ((4, 7), (17, 24), (23,)),
    "fear": ((1, 2, 4),),
    "sadness": ((1,), (1, 4), (6, 15)),
    "surprise": ((1, 2, 26),),
    "disgust": ((9,), (10,)),
}


@dataclass(frozen=True)
class Movements:
    """`fields` [15, V, 3] at intensity 5; `lids` [15, 2]: share of the resting opening that the upper and the lower lid close."""

    fields: Array
    lids: Array
    pucker: Array  # [V, 3] rounded lips of speech: a nuisance, not one of the 15


def _field(x: Array, dx: object = 0.0, dy: object = 0.0, dz: object = 0.0) -> Array:
    return np.stack(np.broadcast_arrays(np.asarray(dx), np.asarray(dy), np.asarray(dz), x)[:3], axis=-1)


def _upper_face(x: Array, y: Array) -> dict[int, Array]:
    side, spare = np.sign(x), 1.0 - 0.75 * step(y, -0.2, -0.04)  # brows move far, lids hardly
    cheek = pair(x, y, at=(0.55, 0.42), size=(0.27, 0.2))
    return {
        1: _field(x, dy=-0.21 * spare * pair(x, y, at=(0.24, -0.35), size=(0.24, 0.28))),
        2: _field(x, dy=-0.19 * spare * pair(x, y, at=(0.76, -0.32), size=(0.26, 0.28))),
        4: _field(
            x,
            dx=-0.10 * side * spare * pair(x, y, at=(0.28, -0.28), size=(0.2, 0.14)),
            dy=0.17 * spare * pair(x, y, at=(0.3, -0.3), size=(0.3, 0.2))
            + 0.05 * pair(x, y, at=(0.3, -0.05), size=(0.2, 0.12)),
            dz=0.03 * blob(x, y, at=(0, -0.25), size=(0.2, 0.12)),
        ),
        6: _field(x, dx=0.02 * side * cheek, dy=-0.14 * cheek, dz=0.09 * cheek),
        7: _field(x, dy=-0.02 * pair(x, y, at=(0.5, 0.14), size=(0.25, 0.08))),
        9: _field(
            x,
            dx=0.03 * side * pair(x, y, at=(0.22, 0.62), size=(0.09, 0.1)),
            dy=-0.14 * pair(x, y, at=(0.16, 0.58), size=(0.2, 0.2))
            - 0.05 * blob(x, y, at=(0, 0.93), size=(0.25, 0.09))
            + 0.08 * pair(x, y, at=(0.2, -0.25), size=(0.2, 0.14)),
            dz=0.03 * pair(x, y, at=(0.28, 0.5), size=(0.14, 0.14)),
        ),
    }


def _corner(x: Array, y: Array, size: tuple[float, float]) -> Array:
    return pair(x, y, at=(0.44, 1.03), size=size)


def _corners(x: Array, y: Array) -> dict[int, Array]:
    """What the corners of the mouth do."""
    side = np.sign(x)
    return {
        12: _field(
            x,
            dx=0.15 * side * _corner(x, y, (0.26, 0.24)),
            dy=-0.17 * _corner(x, y, (0.22, 0.24)) - 0.04 * pair(x, y, at=(0.48, 0.72), size=(0.2, 0.2)),
            dz=-0.06 * _corner(x, y, (0.2, 0.14))
            + 0.07 * pair(x, y, at=(0.6, 0.62), size=(0.2, 0.2))
            - 0.03 * blob(x, y, at=(0, 1.05), size=(0.42, 0.16)),
        ),
        14: _field(
            x,
            dx=0.08 * side * _corner(x, y, (0.2, 0.14)),
            dy=-0.015 * _corner(x, y, (0.2, 0.14)),
            dz=-0.1 * _corner(x, y, (0.13, 0.12)),
        ),
        15: _field(
            x,
            dx=0.03 * side * _corner(x, y, (0.2, 0.15)),
            dy=0.13 * _corner(x, y, (0.2, 0.19)),
            dz=-0.03 * _corner(x, y, (0.1, 0.1)),
        ),
    }


def _lips(x: Array, y: Array, below: Array) -> dict[int, Array]:
    """What the lips do between the corners; `below` tells the lower lip from the upper."""
    above = 1.0 - below
    upper = above * blob(x, y, at=(0, 0.97), size=(0.3, 0.17))
    lower = below * blob(x, y, at=(0, 1.1), size=(0.32, 0.18))
    lip_low = below * blob(x, y, at=(0, 1.12), size=(0.4, 0.085))
    lips = above * blob(x, y, at=(0, 0.97), size=(0.4, 0.075)) + lip_low
    rim_up, rim_low = (blob(x, y, at=(0, h), size=(0.36, s)) for h, s in ((0.94, 0.06), (1.22, 0.08)))
    fold = pair(x, y, at=(0.48, 0.72), size=(0.2, 0.2))
    peaks = 1 + 0.3 * pair(x, y, at=(0.16, 0.95), size=(0.1, 0.2))
    push = below * blob(x, y, at=(0, 1.38), size=(0.34, 0.22))
    return {
        10: _field(x, dy=-0.13 * upper * peaks - 0.05 * fold, dz=0.05 * upper + 0.05 * fold),
        17: _field(
            x,
            dy=-0.18 * push - 0.04 * above * blob(x, y, at=(0, 1.0), size=(0.22, 0.07)),
            dz=0.06 * blob(x, y, at=(0, 1.5), size=(0.24, 0.14)) + 0.05 * lip_low,
        ),
        23: _field(
            x,
            dx=-0.42 * x * blob(x, y, at=(0, 1.05), size=(0.42, 0.16)),
            dy=0.03 * above * rim_up - 0.05 * below * rim_low,
            dz=0.05 * lips,
        ),
        24: _field(
            x,
            dx=0.03 * np.sign(x) * _corner(x, y, (0.14, 0.1)),
            dy=0.065 * above * rim_up - 0.1 * below * rim_low,
            dz=-0.09 * lips,
        ),
        25: _field(x, dy=0.13 * lower - 0.035 * upper),
    }


def _jaw(x: Array, y: Array, below: Array) -> Array:
    """The jaw drops as one; towards the corners of the mouth the lower lip stays behind."""
    held = np.clip(np.abs(x) / 0.45, 0, 1) ** 3 * np.exp(-(((y - 1.02) / 0.2) ** 2))
    jaw = below * (1.0 - 0.85 * step(np.abs(x), 0.5, 1.05)) * (1.0 - 0.6 * held)
    return _field(x, dy=0.36 * jaw + 0.1 * _corner(x, y, (0.15, 0.12)) * (1.0 - below), dz=-0.12 * jaw)


@lru_cache(maxsize=1)
def movements() -> Movements:
    """All fields, computed once a process."""
    t = template()
    x, y = t.neutral[:, 0], t.neutral[:, 1]
    by_au = {**_upper_face(x, y), **_corners(x, y), **_lips(x, y, t.below), 26: _jaw(x, y, t.below)}
    lids = {1: (-0.08, 0.0), 2: (-0.08, 0.0), 4: (0.08, 0.02), 6: (0.04, 0.26), 7: (0.26, 0.34), 9: (0.08, 0.14)}
    front = (np.cos(t.angle) > 0)[:, None] * np.clip(3 * np.cos(t.angle), 0, 1)[:, None]
    mouth = blob(x, y, at=(0, 1.05), size=(0.45, 0.18))
    return Movements(
        fields=np.stack([by_au[au] * front for au in AUS]).astype(np.float32),
        lids=np.array([lids.get(au, (0.0, 0.0)) for au in AUS], np.float32),
        pucker=_field(x, dx=-0.42 * x * mouth, dz=0.12 * mouth).astype(np.float32),
    )
