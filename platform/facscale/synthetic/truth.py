"""Aligned faces of which everything is known: what their AUs and heads do, and where each pixel comes from.

They are made for measuring what an encoder has learned, so they are seen by no training: other people than any data set
of ours holds.
"""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.data import align
from facscale.progress import Progress
from facscale.spec.pipelines import Crop
from facscale.synthetic.anatomy import Array
from facscale.synthetic.clip import Clip, Flow, Kind, render_clip

VERSION = 1  # rises when the same arguments give other faces
FIRST = 100_000  # number of the first person
CLIPS, FRAMES, FPS = 4, 8, 2.5  # of each person; every other frame is paired with the one half a clip later
KINDS: tuple[Kind, ...] = ("au", "pose", "all")
PICTURE = 224  # pixels, side of the rendered picture at least


@dataclass(frozen=True)
class Truth:
    """N frames, and P pairs of frames of one clip. Displacements are in crop pixels, x then y, as methods give them."""

    images: NDArray[np.uint8]  # [N, S, S, 3] RGB
    identity: NDArray[np.int64]  # [N]
    intensities: Array  # [N, 15] 0..5, in the order of AUS
    turn: Array  # [N, 2] yaw and pitch of the head (rad), what alignment leaves of the pose
    source: NDArray[np.int64]  # [P] numbers of frames
    target: NDArray[np.int64]  # [P]
    origin: dict[
        Kind, NDArray[np.float16]
    ]  # [P, S, S, 2] of the picture in which that kind alone changed: from where in the source
    valid: dict[Kind, NDArray[np.bool_]]  # [P, S, S] where there is a person, and her pixel is visible in the source


def truth(*, people: int, size: int, crop: Crop, cache: Path) -> Truth:
    """Faces of `people` persons, cropped to `size` pixels by `crop` (of any size); kept in the folder `cache`."""
    crop = crop.model_copy(update={"size": size})
    place = f"truth-{VERSION}-{people}-{size}-{crop.eyes_y:g}-{crop.eyes_distance:g}.npz"
    kept = cache / place
    if not kept.exists():
        found = _rendered(people, crop)
        cache.mkdir(parents=True, exist_ok=True)
        partial_file = cache / f".{os.getpid()}.{place}"
        np.savez(partial_file, allow_pickle=False, **_flat(found))
        partial_file.replace(kept)
    with np.load(kept) as file:
        return _unflat(dict(file))


def _rendered(people: int, crop: Crop) -> Truth:
    """Everybody, side by side on this machine's cores."""
    numbers = range(FIRST, FIRST + people)
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn"), max_workers=len(os.sched_getaffinity(0))) as pool,
        Progress("faces with known truth", total=people, unit="people") as bar,
    ):
        parts = []
        for part in pool.map(partial(_person, crop=crop), numbers):
            parts.append(part)
            bar.advance()
    return _joined(parts)


def _person(number: int, *, crop: Crop) -> Truth:
    """All clips of one person."""
    size = max(PICTURE, crop.size)
    seconds = FRAMES / FPS
    return _joined(
        [
            _clip(render_clip(identity=number, clip=clip, seconds=seconds, fps=FPS, size=size), crop)
            for clip in range(CLIPS)
        ]
    )


def _clip(clip: Clip, crop: Crop) -> Truth:
    """Its aligned frames, and the pairs that lie half of it apart."""
    count = len(clip.frames)
    matrices = [_alignment(points, crop) for points in clip.landmarks]
    source = np.arange(0, count - count // 2, 2)
    target = source + count // 2
    seen = {
        kind: [
            _origin(clip, s, t, kind=kind, matrix=matrices[s], crop=crop)
            for s, t in zip(source.tolist(), target.tolist(), strict=True)
        ]
        for kind in KINDS
    }
    return Truth(
        images=np.stack([align.warp(f, m, crop.size) for f, m in zip(clip.frames, matrices, strict=True)]),
        identity=np.full(count, clip.identity),
        intensities=clip.intensities.astype(np.float32),
        turn=clip.pose[:, :2].astype(np.float32),
        source=source,
        target=target,
        origin={
            kind: np.stack([flow.displacement.astype(np.float16) for flow in flows]) for kind, flows in seen.items()
        },
        valid={kind: np.stack([flow.valid & flow.person for flow in flows]) for kind, flows in seen.items()},
    )


def _origin(clip: Clip, source: int, target: int, *, kind: Kind, matrix: Array, crop: Crop) -> Flow:
    """The changed picture, aligned by its own landmarks: from where in the aligned `source` (`matrix`) its pixels come."""
    change = clip.change(source, target, kind=kind)
    back = cv2.invertAffineTransform(_alignment(change.landmarks, crop))
    here = np.moveaxis(np.indices((crop.size, crop.size))[::-1], 0, -1).reshape(-1, 2).astype(np.float64)
    picture = align.moved(here, back)
    x, y = picture.reshape(crop.size, crop.size, 2).astype(np.float32).transpose(2, 0, 1)
    look = partial(cv2.remap, map1=x, map2=y, borderMode=cv2.BORDER_CONSTANT)
    flow = look(change.origin.displacement, interpolation=cv2.INTER_LINEAR).reshape(-1, 2)
    origin = align.moved(picture + flow, matrix)
    inside = ((origin >= 0) & (origin <= crop.size - 1)).all(axis=1)
    masks = [
        look(mask.astype(np.uint8), interpolation=cv2.INTER_NEAREST).astype(bool)
        for mask in (change.origin.valid, change.origin.person)
    ]
    shape = (crop.size, crop.size)
    return Flow((origin - here).reshape(*shape, 2).astype(np.float32), masks[0] & inside.reshape(shape), masks[1])


def _alignment(landmarks: Array, crop: Crop) -> Array:
    matrix = align.similarity(align.eyes(landmarks), crop)
    assert matrix is not None, "eyes of rendered faces are never this close"
    return matrix


def _joined(parts: list[Truth]) -> Truth:
    """One after the other."""
    starts = np.cumsum([0, *(len(part.images) for part in parts[:-1])])
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PLAIN}
    for name in ("source", "target"):
        columns[name] = np.concatenate([getattr(part, name) + start for part, start in zip(parts, starts, strict=True)])
    by_kind: dict[str, Any] = {
        name: {kind: np.concatenate([getattr(part, name)[kind] for part in parts]) for kind in KINDS}
        for name in ("origin", "valid")
    }
    return Truth(**columns, **by_kind)


_PLAIN = ("images", "identity", "intensities", "turn")


def _flat(found: Truth) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        columns |= (
            {f"{field.name}.{kind}": value[kind] for kind in value} if isinstance(value, dict) else {field.name: value}
        )
    return columns


def _unflat(columns: dict[str, np.ndarray]) -> Truth:
    plain: dict[str, Any] = {name: value for name, value in columns.items() if "." not in name}
    by_kind: dict[str, Any] = {
        name: {kind: columns[f"{name}.{kind}"] for kind in KINDS} for name in ("origin", "valid")
    }
    return Truth(**plain, **by_kind)
