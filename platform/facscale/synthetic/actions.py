"""The 15 action units of AUNet's Table I: how each moves the skin and the lids.

A movement is a field [V, 3] over the template, in eye distances at intensity 5. Lids have two coordinates of their own.
"""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from facscale.synthetic.anatomy import Array, blob, blob_pair, get_template, make_field, smoothstep

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
class AUMotion:
    """How every AU moves the template at intensity 5."""

    fields: Array  # [15, V, 3]
    lids: Array  # [15, 2] share of the resting opening that the upper and the lower lid close
    pucker: Array  # [V, 3] lips rounded by speech: a nuisance, not one of the 15


def _make_upper_face_fields(x: Array, y: Array) -> dict[int, Array]:
    side, spare = np.sign(x), 1.0 - 0.75 * smoothstep(y, -0.2, -0.04)  # brows move far, lids little
    cheek = blob_pair(x, y, at=(0.55, 0.42), size=(0.27, 0.2))
    return {
        1: make_field(x, dy=-0.21 * spare * blob_pair(x, y, at=(0.24, -0.35), size=(0.24, 0.28))),
        2: make_field(x, dy=-0.19 * spare * blob_pair(x, y, at=(0.76, -0.32), size=(0.26, 0.28))),
        4: make_field(
            x,
            dx=-0.10 * side * spare * blob_pair(x, y, at=(0.28, -0.28), size=(0.2, 0.14)),
            dy=0.17 * spare * blob_pair(x, y, at=(0.3, -0.3), size=(0.3, 0.2))
            + 0.05 * blob_pair(x, y, at=(0.3, -0.05), size=(0.2, 0.12)),
            dz=0.03 * blob(x, y, at=(0, -0.25), size=(0.2, 0.12)),
        ),
        6: make_field(x, dx=0.02 * side * cheek, dy=-0.14 * cheek, dz=0.09 * cheek),
        7: make_field(x, dy=-0.02 * blob_pair(x, y, at=(0.5, 0.14), size=(0.25, 0.08))),
        9: make_field(
            x,
            dx=0.03 * side * blob_pair(x, y, at=(0.22, 0.62), size=(0.09, 0.1)),
            dy=-0.14 * blob_pair(x, y, at=(0.16, 0.58), size=(0.2, 0.2))
            - 0.05 * blob(x, y, at=(0, 0.93), size=(0.25, 0.09))
            + 0.08 * blob_pair(x, y, at=(0.2, -0.25), size=(0.2, 0.14)),
            dz=0.03 * blob_pair(x, y, at=(0.28, 0.5), size=(0.14, 0.14)),
        ),
    }


def _make_corner_blob(x: Array, y: Array, size: tuple[float, float]) -> Array:
    return blob_pair(x, y, at=(0.44, 1.03), size=size)


def _make_corner_fields(x: Array, y: Array) -> dict[int, Array]:
    """The AUs that move the corners of the mouth."""
    side = np.sign(x)
    return {
        12: make_field(
            x,
            dx=0.15 * side * _make_corner_blob(x, y, (0.26, 0.24)),
            dy=-0.17 * _make_corner_blob(x, y, (0.22, 0.24)) - 0.04 * blob_pair(x, y, at=(0.48, 0.72), size=(0.2, 0.2)),
            dz=-0.06 * _make_corner_blob(x, y, (0.2, 0.14))
            + 0.07 * blob_pair(x, y, at=(0.6, 0.62), size=(0.2, 0.2))
            - 0.03 * blob(x, y, at=(0, 1.05), size=(0.42, 0.16)),
        ),
        14: make_field(
            x,
            dx=0.08 * side * _make_corner_blob(x, y, (0.2, 0.14)),
            dy=-0.015 * _make_corner_blob(x, y, (0.2, 0.14)),
            dz=-0.1 * _make_corner_blob(x, y, (0.13, 0.12)),
        ),
        15: make_field(
            x,
            dx=0.03 * side * _make_corner_blob(x, y, (0.2, 0.15)),
            dy=0.13 * _make_corner_blob(x, y, (0.2, 0.19)),
            dz=-0.03 * _make_corner_blob(x, y, (0.1, 0.1)),
        ),
    }


def _make_lip_fields(x: Array, y: Array, below: Array) -> dict[int, Array]:
    """The AUs that move the lips between the corners; `below` is 0 on the upper and 1 on the lower lip."""
    above = 1.0 - below
    upper = above * blob(x, y, at=(0, 0.97), size=(0.3, 0.17))
    lower = below * blob(x, y, at=(0, 1.1), size=(0.32, 0.18))
    lip_low = below * blob(x, y, at=(0, 1.12), size=(0.4, 0.085))
    lips = above * blob(x, y, at=(0, 0.97), size=(0.4, 0.075)) + lip_low
    rim_up, rim_low = (blob(x, y, at=(0, h), size=(0.36, s)) for h, s in ((0.94, 0.06), (1.22, 0.08)))
    fold = blob_pair(x, y, at=(0.48, 0.72), size=(0.2, 0.2))
    peaks = 1 + 0.3 * blob_pair(x, y, at=(0.16, 0.95), size=(0.1, 0.2))
    push = below * blob(x, y, at=(0, 1.38), size=(0.34, 0.22))
    return {
        10: make_field(x, dy=-0.13 * upper * peaks - 0.05 * fold, dz=0.05 * upper + 0.05 * fold),
        17: make_field(
            x,
            dy=-0.18 * push - 0.04 * above * blob(x, y, at=(0, 1.0), size=(0.22, 0.07)),
            dz=0.06 * blob(x, y, at=(0, 1.5), size=(0.24, 0.14)) + 0.05 * lip_low,
        ),
        23: make_field(
            x,
            dx=-0.42 * x * blob(x, y, at=(0, 1.05), size=(0.42, 0.16)),
            dy=0.03 * above * rim_up - 0.05 * below * rim_low,
            dz=0.05 * lips,
        ),
        24: make_field(
            x,
            dx=0.03 * np.sign(x) * _make_corner_blob(x, y, (0.14, 0.1)),
            dy=0.065 * above * rim_up - 0.1 * below * rim_low,
            dz=-0.09 * lips,
        ),
        25: make_field(x, dy=0.13 * lower - 0.035 * upper),
    }


def _make_jaw_field(x: Array, y: Array, below: Array) -> Array:
    """AU26: the jaw drops rigidly, but the lower lip moves less towards the corners of the mouth."""
    held = np.clip(np.abs(x) / 0.45, 0, 1) ** 3 * np.exp(-(((y - 1.02) / 0.2) ** 2))
    jaw = below * (1.0 - 0.85 * smoothstep(np.abs(x), 0.5, 1.05)) * (1.0 - 0.6 * held)
    return make_field(x, dy=0.36 * jaw + 0.1 * _make_corner_blob(x, y, (0.15, 0.12)) * (1.0 - below), dz=-0.12 * jaw)


@lru_cache(maxsize=1)
def get_au_motion() -> AUMotion:
    """The motion of all AUs, computed once per process."""
    t = get_template()
    x, y = t.neutral[:, 0], t.neutral[:, 1]
    by_au = {
        **_make_upper_face_fields(x, y),
        **_make_corner_fields(x, y),
        **_make_lip_fields(x, y, t.below),
        26: _make_jaw_field(x, y, t.below),
    }
    lids = {1: (-0.08, 0.0), 2: (-0.08, 0.0), 4: (0.08, 0.02), 6: (0.04, 0.26), 7: (0.26, 0.34), 9: (0.08, 0.14)}
    front = (np.cos(t.angle) > 0)[:, None] * np.clip(3 * np.cos(t.angle), 0, 1)[:, None]
    mouth = blob(x, y, at=(0, 1.05), size=(0.45, 0.18))
    return AUMotion(
        fields=np.stack([by_au[au] * front for au in AUS]).astype(np.float32),
        lids=np.array([lids.get(au, (0.0, 0.0)) for au in AUS], np.float32),
        pucker=make_field(x, dx=-0.42 * x * mouth, dz=0.12 * mouth).astype(np.float32),
    )
