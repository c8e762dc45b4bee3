"""Contact sheets of people, and of action units by intensity."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.synthetic.actions import AUS
from facscale.synthetic.anatomy import Array
from facscale.synthetic.clip import render_clip, render_motion
from facscale.synthetic.motion import MotionSequence, sample_motion
from facscale.synthetic.render import FrameRenderer, get_actor

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


def hold_pose(
    motion: MotionSequence, *, intensities: Array, pose: tuple[float, ...] = (0, 0, 0, 0, 0, 1)
) -> MotionSequence:
    """A sequence with still frames of `intensities` [n, 15] in the first light of `motion`, without speech and blinks."""
    n = len(intensities)

    def repeat(value: object) -> Array:
        return np.repeat(np.asarray(value, np.float32)[None], n, axis=0)

    return replace(
        motion,
        intensities=np.asarray(intensities, np.float32),
        pucker=np.zeros(n, np.float32),
        blink=np.zeros(n, np.float32),
        gaze=np.zeros((n, 2), np.float32),
        pose=repeat(pose),
        light=repeat(motion.light[0]),
        strength=repeat(motion.strength[0]),
    )


def render_stills(
    *, identity: int, intensities: Array, size: int, seed: int = 0, pose: tuple[float, ...] = (0, 0, 0, 0, 0, 1)
) -> tuple[Image, Array]:
    """Render still frames [n, size, size, 3] of AU `intensities` [n, 15]; also returns their landmarks [n, 68, 2]."""
    actor, clip_seed = get_actor(number=identity, seed=seed), (seed, identity, 0)
    motion = sample_motion(actor.identity, frames=1, fps=25, seed=clip_seed)
    clip = render_motion(
        FrameRenderer(actor, size=size, seed=clip_seed),
        hold_pose(motion, intensities=intensities, pose=pose),
        fps=25,
    )
    return clip.frames, clip.landmarks


def tile_images(rows: list[list[Image]], *, gap: int = 2) -> Image:
    """Arrange images of equal size in rows, on white."""
    size, columns = rows[0][0].shape[0], max(map(len, rows))
    sheet = np.full((len(rows) * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            sheet[r * (size + gap) :, c * (size + gap) :][:size, :size] = image
    return sheet


def add_label(image: Image, text: str) -> Image:
    """Copy an image and write a label into its lower left corner."""
    out, at = image.copy(), (4, image.shape[0] - 6)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, image.shape[0] / 420, colour, width, cv2.LINE_AA)
    return out


def render_au_sheet(
    *, identity: int = 0, size: int = 160, levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5), seed: int = 0
) -> Image:
    """Render a sheet with a row for each AU and a column for each intensity, cropped to the face."""
    intensities = np.array([[level * (a == b) for b in AUS] for a in AUS for level in levels], np.float32)
    frames, marks = render_stills(identity=identity, intensities=intensities, size=2 * size, seed=seed)
    centre = marks[0].mean(0).astype(int)
    x, y = np.clip(centre - [size // 2, int(0.58 * size)], 0, size)
    crops = [f[y : y + size, x : x + size] for f in frames]
    rows = [crops[i : i + len(levels)] for i in range(0, len(crops), len(levels))]
    return tile_images(
        [[add_label(row[0], f"AU{au} {NAMES[au]}"), *row[1:]] for au, row in zip(AUS, rows, strict=True)]
    )


def render_contact_sheet(
    *, identities: int = 24, columns: int = 8, size: int = 160, first: int = 0, seed: int = 0
) -> Image:
    """Render an RGB sheet of people, each in the middle of a clip."""
    images = []
    for i in range(first, first + identities):
        clip = render_clip(identity=i, clip=0, seconds=0.6, size=size, seed=seed)
        images.append(clip.frames[len(clip.frames) // 2])
    return tile_images([images[i : i + columns] for i in range(0, len(images), columns)])
