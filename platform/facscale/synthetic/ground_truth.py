"""Aligned faces with known AU intensities, head pose and pixel motion, to measure what an encoder has learned.

No training sees them: their people are in none of our rendered data sets.
"""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import contextlib
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from facscale.data import align
from facscale.files import publish, sync
from facscale.processes import end_with_parent
from facscale.progress import Progress
from facscale.spec.pipelines import Crop
from facscale.synthetic.anatomy import Array
from facscale.synthetic.clip import Clip, FlowField, Kind, render_clip

VERSION = 1  # to be raised when the same arguments give other faces
FIRST_IDENTITY = 100_000
CLIPS, FRAMES, FPS = 4, 8, 2.5  # of each person; every other frame is paired with the frame half a clip later
KINDS: tuple[Kind, ...] = ("au", "pose", "all")
log = logging.getLogger(__name__)
MIN_IMAGE_SIZE = 224  # pixels, side of the rendered image before alignment


@dataclass(frozen=True)
class GroundTruth:
    """N frames, and P pairs of frames of a clip. Displacements are in crop pixels, x then y, as methods predict them."""

    images: NDArray[np.uint8]  # [N, S, S, 3] RGB
    identity: NDArray[np.int64]  # [N]
    intensities: Array  # [N, 15] 0..5, in the order of AUS
    turn: Array  # [N, 2] yaw and pitch of the head (rad): the part of the pose that alignment keeps
    source: NDArray[np.int64]  # [P] indices of frames
    target: NDArray[np.int64]  # [P] indices of frames
    # [P, S, S, 2] for the image in which only that kind of motion takes place: from where in the source a pixel comes
    origin: dict[Kind, NDArray[np.float16]]
    valid: dict[Kind, NDArray[np.bool_]]  # [P, S, S] where there is a person, and the pixel is visible in the source


def load_ground_truth(*, people: int, size: int, crop: Crop, cache: Path) -> GroundTruth:
    """Render faces of `people` persons, aligned by `crop` to `size` pixels, or load them from the folder `cache`."""
    crop = crop.model_copy(update={"size": size})
    name = f"truth-{VERSION}-{people}-{size}-{crop.eyes_y:g}-{crop.eyes_distance:g}.npz"
    path = cache / name
    try:
        with np.load(path) as file:
            return _unflatten(dict(file))
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, EOFError, OSError, BadZipFile) as error:
        log.warning("%s is damaged (%s): it is rendered again", path, error)
    rendered = _render_people(people, crop)
    partial_file = cache / f".{os.getpid()}.{name}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(partial_file, allow_pickle=False, **_flatten(rendered))
        sync(partial_file)
        publish(partial_file, path)
    except OSError as error:
        log.warning("%s cannot be kept (%s): it will be rendered again", path, error.strerror)
        with contextlib.suppress(OSError):
            partial_file.unlink(missing_ok=True)
    return rendered


def _render_people(people: int, crop: Crop) -> GroundTruth:
    """Render all people in parallel on the cores of this machine."""
    numbers = range(FIRST_IDENTITY, FIRST_IDENTITY + people)
    with (
        ProcessPoolExecutor(
            mp_context=get_context("spawn"), max_workers=len(os.sched_getaffinity(0)), initializer=end_with_parent
        ) as pool,
        Progress("faces with known truth", total=people, unit="people") as bar,
    ):
        parts = []
        for part in pool.map(partial(_render_person, crop=crop), numbers):
            parts.append(part)
            bar.advance()
    return _concatenate(parts)


def _render_person(number: int, *, crop: Crop) -> GroundTruth:
    """Render all clips of a person."""
    size = max(MIN_IMAGE_SIZE, crop.size)
    seconds = FRAMES / FPS
    return _concatenate(
        [
            _align_clip(render_clip(identity=number, clip=clip, seconds=seconds, fps=FPS, size=size), crop)
            for clip in range(CLIPS)
        ]
    )


def _align_clip(clip: Clip, crop: Crop) -> GroundTruth:
    """Align the frames of a clip, and pair those that are half a clip apart."""
    count = len(clip.frames)
    matrices = [_fit_alignment(points, crop) for points in clip.landmarks]
    source = np.arange(0, count - count // 2, 2)
    target = source + count // 2
    origins = {
        kind: [
            _compute_origin(clip, s, t, kind=kind, matrix=matrices[s], crop=crop)
            for s, t in zip(source.tolist(), target.tolist(), strict=True)
        ]
        for kind in KINDS
    }
    return GroundTruth(
        images=np.stack([align.warp(f, m, crop.size) for f, m in zip(clip.frames, matrices, strict=True)]),
        identity=np.full(count, clip.identity),
        intensities=clip.intensities.astype(np.float32),
        turn=clip.pose[:, :2].astype(np.float32),
        source=source,
        target=target,
        origin={
            kind: np.stack([flow.displacement.astype(np.float16) for flow in flows]) for kind, flows in origins.items()
        },
        valid={kind: np.stack([flow.valid & flow.person for flow in flows]) for kind, flows in origins.items()},
    )


def _compute_origin(clip: Clip, source: int, target: int, *, kind: Kind, matrix: Array, crop: Crop) -> FlowField:
    """Compute from where in the source the pixels of the changed image come.

    The source is aligned by `matrix`, the changed image by its own landmarks.
    """
    change = clip.compute_change(source, target, kind=kind)
    back = cv2.invertAffineTransform(_fit_alignment(change.landmarks, crop))
    here = np.moveaxis(np.indices((crop.size, crop.size))[::-1], 0, -1).reshape(-1, 2).astype(np.float64)
    points = align.transform_points(here, back)
    x, y = points.reshape(crop.size, crop.size, 2).astype(np.float32).transpose(2, 0, 1)
    sample = partial(cv2.remap, map1=x, map2=y, borderMode=cv2.BORDER_CONSTANT)
    flow = sample(change.origin.displacement, interpolation=cv2.INTER_LINEAR).reshape(-1, 2)
    origin = align.transform_points(points + flow, matrix)
    inside = ((origin >= 0) & (origin <= crop.size - 1)).all(axis=1)
    masks = [
        sample(mask.astype(np.uint8), interpolation=cv2.INTER_NEAREST).astype(bool)
        for mask in (change.origin.valid, change.origin.person)
    ]
    shape = (crop.size, crop.size)
    return FlowField((origin - here).reshape(*shape, 2).astype(np.float32), masks[0] & inside.reshape(shape), masks[1])


def _fit_alignment(landmarks: Array, crop: Crop) -> Array:
    matrix = align.fit_similarity(align.locate_eyes(landmarks), crop)
    assert matrix is not None, "eyes of rendered faces are never this close"
    return matrix


def _concatenate(parts: list[GroundTruth]) -> GroundTruth:
    """Concatenate; indices of frames are shifted."""
    starts = np.cumsum([0, *(len(part.images) for part in parts[:-1])])
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    for name in ("source", "target"):
        columns[name] = np.concatenate([getattr(part, name) + start for part, start in zip(parts, starts, strict=True)])
    by_kind: dict[str, Any] = {
        name: {kind: np.concatenate([getattr(part, name)[kind] for part in parts]) for kind in KINDS}
        for name in ("origin", "valid")
    }
    return GroundTruth(**columns, **by_kind)


_ARRAYS = ("images", "identity", "intensities", "turn")


def _flatten(truth: GroundTruth) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for field in fields(truth):
        value = getattr(truth, field.name)
        columns |= (
            {f"{field.name}.{kind}": value[kind] for kind in value} if isinstance(value, dict) else {field.name: value}
        )
    return columns


def _unflatten(columns: dict[str, np.ndarray]) -> GroundTruth:
    plain: dict[str, Any] = {name: value for name, value in columns.items() if "." not in name}
    by_kind: dict[str, Any] = {
        name: {kind: columns[f"{name}.{kind}"] for kind in KINDS} for name in ("origin", "valid")
    }
    return GroundTruth(**plain, **by_kind)
