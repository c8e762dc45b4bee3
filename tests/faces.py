"""Writes small data sets for tests: smooth random pictures, a different one for each frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from facscale.data import Dataset, ShardWriter


def make_picture(*key: int, size: int) -> np.ndarray:
    """Make a smooth uint8 RGB picture [size, size, 3] that depends on `key` alone."""
    coarse = np.random.default_rng(key).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def make_track(
    identity: int,
    video: int = 0,
    number: int = 0,
    *,
    frames: Iterable[int],
    size: int = 32,
    au: int = 0,
    flow: bool = False,
    quality: int = 95,
) -> pa.Table:
    """Make the rows of a track with the given frame numbers, `au` label columns, and optional optical flow."""
    frames = list(frames)
    random = np.random.default_rng([identity, video, number])
    pictures = (make_picture(identity, video, number, frame, size=size) for frame in frames)
    points = random.random((len(frames), 136), dtype=np.float32) * size
    columns: dict[str, Any] = {
        "identity": [f"id{identity:05d}"] * len(frames),
        "video": [f"v{video}"] * len(frames),
        "track": pa.array([number] * len(frames), pa.int32()),
        "frame": pa.array(frames, pa.int32()),
        "time_s": pa.array(np.array(frames) / 25, pa.float32()),
        "jpeg": [simplejpeg.encode_jpeg(image, quality=quality) for image in pictures],
        "landmarks": pa.FixedSizeListArray.from_arrays(pa.array(points.ravel()), 136),
    }
    if au:
        labels = random.integers(-1, 2, (len(frames), au), dtype=np.int8)
        columns["au"] = pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), au)
        columns["intensity"] = pa.FixedSizeListArray.from_arrays(pa.array((labels * 3).clip(-1).ravel()), au)
    if flow:
        steps = random.integers(-40, 40, (len(frames), 2 * (size // 4) ** 2), dtype=np.int8)
        columns["flow"] = pa.FixedSizeListArray.from_arrays(pa.array(steps.ravel()), steps.shape[1])
    return pa.table(columns)


def write_tracks(
    url: str, tracks: Iterable[pa.Table], *, au: tuple[int, ...] = (), size: int = 32, **options: Any
) -> Dataset:
    """Write `tracks` as a data set and open it."""
    settings = {"name": "test", "fps": 25.0, "recipe": {}, **options}
    with ShardWriter(url, au=au, image_size=size, **settings) as writer:
        for rows in tracks:
            writer.add_track(rows)
    return Dataset(url)


def write_expression_data_set(
    url: str, classes: tuple[str, ...] = ("calm", "glad", "wild"), *, train: int = 8, test: int = 4, **options: Any
) -> Dataset:
    """Write single images, one per person: `train` and `test` images of each class, whose brightness encodes the class."""
    tracks = []
    for person in range((train + test) * len(classes)):
        number = person % len(classes)
        rows = make_track(person, frames=[0])
        level = 40 + 170 * number // max(1, len(classes) - 1)
        image = (make_picture(person, size=32) // 8 + level).astype(np.uint8)
        rows = rows.set_column(rows.column_names.index("jpeg"), "jpeg", [[simplejpeg.encode_jpeg(image)]])
        rows = rows.append_column("expression", pa.array([number], pa.int8()))
        part = "train" if person < train * len(classes) else "test"
        tracks.append(rows.append_column("part", pa.array([part])))
    return write_tracks(url, tracks, expressions=classes, **{"name": "moods", "fps": 0.0, **options})


def write_face_data_set(url: str, lengths: list[int], **options: Any) -> Dataset:
    """Write one track per identity, of the given lengths, in row groups of a few kilobytes."""
    options = {"row_group_mb": 0.02, "shard_mb": 0.1, **options}
    size, au, flow = options.get("size", 32), len(options.get("au", ())), options.pop("flow", False)
    tracks = (
        make_track(person, frames=range(length), size=size, au=au, flow=flow) for person, length in enumerate(lengths)
    )
    return write_tracks(url, tracks, **options)
