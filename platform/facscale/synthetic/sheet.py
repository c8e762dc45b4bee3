"""Contact sheets: people, and action units against intensity."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.actions import AUS
from facscale.synthetic.anatomy import Array
from facscale.synthetic.clip import _render, render_clip
from facscale.synthetic.motion import Script, script
from facscale.synthetic.render import Painter, cast

Image = NDArray[np.uint8]
NAMES = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    14: "dimpler",
    15: "lip corner depressor",
    17: "chin raiser",
    23: "lip tightener",
    24: "lip presser",
    25: "lips part",
    26: "jaw drop",
}


def posed(who_script: Script, *, intensities: Array, pose: tuple[float, ...] = (0, 0, 0, 0, 0, 1)) -> Script:
    """A script of len(intensities) still frames in the light of the first frame of `who_script`: no speech, no blink."""
    n = len(intensities)

    def repeat(value: object) -> Array:
        return np.repeat(np.asarray(value, np.float32)[None], n, axis=0)

    return replace(
        who_script,
        intensities=np.asarray(intensities, np.float32),
        pucker=np.zeros(n, np.float32),
        blink=np.zeros(n, np.float32),
        gaze=np.zeros((n, 2), np.float32),
        pose=repeat(pose),
        light=repeat(who_script.light[0]),
        strength=repeat(who_script.strength[0]),
    )


def still(
    *, identity: int, intensities: Array, size: int, seed: int = 0, pose: tuple[float, ...] = (0, 0, 0, 0, 0, 1)
) -> tuple[Image, Array]:
    """Frames [n, size, size, 3] and landmarks [n, 68, 2] of a person who holds AU `intensities` [n, 15]."""
    who, name = cast(number=identity, seed=seed), (seed, identity, 0)
    clip = _render(
        Painter(who, size=size, seed=name),
        posed(script(who.who, frames=1, fps=25, seed=name), intensities=intensities, pose=pose),
        fps=25,
    )
    return clip.frames, clip.landmarks


def tiled(rows: list[list[Image]], *, gap: int = 2) -> Image:
    """Images of one size in rows, on white."""
    size, columns = rows[0][0].shape[0], max(map(len, rows))
    sheet = np.full((len(rows) * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            sheet[r * (size + gap) :, c * (size + gap) :][:size, :size] = image
    return sheet


def labelled(image: Image, text: str) -> Image:
    """`image` with words in its lower left corner."""
    out, at = image.copy(), (4, image.shape[0] - 6)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, image.shape[0] / 420, colour, width, cv2.LINE_AA)
    return out


def au_sheet(
    *, identity: int = 0, size: int = 160, levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5), seed: int = 0
) -> Image:
    """Rows: AUs; columns: intensities. Cropped to the face."""
    intensities = np.array([[level * (a == b) for b in AUS] for a in AUS for level in levels], np.float32)
    frames, marks = still(identity=identity, intensities=intensities, size=2 * size, seed=seed)
    centre = marks[0].mean(0).astype(int)
    x, y = np.clip(centre - [size // 2, int(0.58 * size)], 0, size)
    crops = [f[y : y + size, x : x + size] for f in frames]
    rows = [crops[i : i + len(levels)] for i in range(0, len(crops), len(levels))]
    return tiled([[labelled(row[0], f"AU{au} {NAMES[au]}"), *row[1:]] for au, row in zip(AUS, rows, strict=True)])


def contact_sheet(*, identities: int = 24, columns: int = 8, size: int = 160, first: int = 0, seed: int = 0) -> Image:
    """RGB picture of people, each in the middle of a clip."""
    images = []
    for i in range(first, first + identities):
        clip = render_clip(identity=i, clip=0, seconds=0.6, size=size, seed=seed)
        images.append(clip.frames[len(clip.frames) // 2])
    return tiled([images[i : i + columns] for i in range(0, len(images), columns)])
