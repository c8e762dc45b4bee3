"""Measures a data set: people, lengths, labels, and of a sample of its frames pose, light and sharpness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa

from facscale.data import pixels
from facscale.data.errors import CorruptError
from facscale.data.labels import compute_base_rates, load_labels
from facscale.data.rows import to_numpy
from facscale.data.shards import Dataset

ROW_GROUPS = 64  # of which frames are sampled
FRAMES = 2048  # in the sample
STORED = (
    "disagreement",
    "outside",
)  # columns that a pipeline measures: of two fits of the landmarks; beyond the picture
GREY_SIDE = 128  # pixels at which light and sharpness are measured, so that crops of any size compare
# A face of which the six landmarks are known in three dimensions (arbitrary units, y up, z towards the camera): nose tip,
# chin, outer corners of the right and left eye, right and left corner of the mouth. Widely used with OpenCV's solvePnP.
POSE_LANDMARKS = (30, 8, 36, 45, 48, 54)
POSE_MODEL = np.array(
    [(0, 0, 0), (0, -330, -65), (-225, 170, -135), (225, 170, -135), (-150, -150, -125), (150, -150, -125)], np.float64
)


@dataclass(frozen=True)
class FrameSample:
    """F frames spread over a data set; undefined values are nan."""

    names: tuple[str, ...]  # identity/video/track/frame
    jpegs: tuple[bytes, ...]
    yaw: np.ndarray  # [F] degrees, from the landmarks; 0: frontal
    pitch: np.ndarray  # [F] degrees
    light: np.ndarray  # [F] mean grey value in [0, 255]
    contrast: np.ndarray  # [F] standard deviation of the grey values
    sharpness: np.ndarray  # [F] variance of the Laplacian of the grey crop at GREY_SIDE pixels
    unreadable: int  # frames that did not decode
    stored: dict[str, np.ndarray]  # of STORED, those that the data set has [F]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LabelStatistics:
    """Action units of P people."""

    aus: tuple[int, ...]
    people: tuple[str, ...]
    positives: np.ndarray  # [n] frames in which the AU is active
    rates: np.ndarray  # [n] base rate over all frames, in [0, 1]; nan: never labelled
    rates_by_person: np.ndarray  # [P, n]
    cooccurrence: np.ndarray  # [n, n]: the mean over people of P(column | row); nan: nobody shows the row


def count_people(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return "videos" and "frames" of each person [P], and "run_frames" of each run [R]."""
    runs = dataset.runs
    people = len(runs.identities)
    video, first = np.unique(runs.video, return_index=True)
    videos = np.bincount(runs.identity[first], minlength=people)
    frames = np.bincount(runs.identity, weights=runs.frames, minlength=people).astype(int)
    assert len(video) == len(runs.videos)
    return {"videos": videos, "frames": frames, "run_frames": runs.frames}


def measure_labels(dataset: Dataset) -> LabelStatistics | None:
    """Measure base rates and co-occurrence, person by person; None without labels. Raises DataError, CorruptError."""
    if not dataset.manifest.au:
        return None
    identity, au = load_labels(dataset)
    people, codes = np.unique(identity, return_inverse=True)
    rates, pairs = [], []
    for code in range(len(people)):
        labels = au[codes == code]
        rates.append(compute_base_rates(labels))
        both = (labels == 1).astype(np.int64)
        known = (labels >= 0).astype(np.int64)
        given = both.T @ known  # frames in which the row is active and the column is labelled
        pairs.append(np.divide(both.T @ both, given, out=np.full(given.shape, np.nan), where=given > 0))
    stacked = np.stack(pairs)
    count = (~np.isnan(stacked)).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return LabelStatistics(
        aus=dataset.manifest.au,
        people=tuple(map(str, people)),
        positives=(au == 1).sum(axis=0),
        rates=compute_base_rates(au),
        rates_by_person=np.stack(rates),
        cooccurrence=mean,
    )


def sample_frames(dataset: Dataset, *, count: int = FRAMES, advance: Callable[[], None] = lambda: None) -> FrameSample:
    """Measure about `count` frames, evenly spread over row groups that are evenly spread over the data set.

    Damaged row groups and frames are left out; `advance` is called after each row group. Raises DataError.
    """
    places = list_sampled_row_groups(dataset)
    per_group = -(-count // len(places))
    names, jpegs, measures, unreadable = list[str](), list[bytes](), list[tuple[float, ...]](), 0
    columns = [name for name in STORED if name in dataset.arrow_schema.names]
    stored: dict[str, list[float]] = {name: [] for name in columns}
    for shard, row_group in places:
        advance()
        try:
            table = dataset.read(shard=shard, row_group=row_group)
        except CorruptError:
            unreadable += dataset.manifest.shards[shard].row_groups[row_group].rows
            continue
        rows = np.unique(np.linspace(0, table.num_rows - 1, min(per_group, table.num_rows)).round().astype(int))
        table = table.take(pa.array(rows))
        points = to_numpy(table["landmarks"]).reshape(len(rows), -1, 2)
        for row in range(len(rows)):
            jpeg = table["jpeg"][row].as_py()
            try:
                image = pixels.decode_jpeg(jpeg)
            except ValueError:
                unreadable += 1
                continue
            names.append("/".join(str(table[name][row].as_py()) for name in ("identity", "video", "track", "frame")))
            jpegs.append(jpeg)
            for name in columns:
                value = table[name][row].as_py()
                stored[name].append(float("nan") if value is None else value)
            measures.append((*estimate_pose(points[row], size=len(image)), *measure_light(image)))
    yaw, pitch, light, contrast, sharpness = np.array(measures, float).reshape(-1, 5).T
    arrays = {name: np.array(values, float) for name, values in stored.items()}
    return FrameSample(tuple(names), tuple(jpegs), yaw, pitch, light, contrast, sharpness, unreadable, arrays)


def list_sampled_row_groups(dataset: Dataset) -> list[tuple[int, int]]:
    """List (shard, row group) of at most ROW_GROUPS row groups, evenly spread."""
    shards = dataset.manifest.shards
    places = [(number, group) for number, shard in enumerate(shards) for group in range(len(shard.row_groups))]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(ROW_GROUPS, len(places))).round().astype(int))
    return [places[index] for index in chosen]


def estimate_pose(points: np.ndarray, *, size: int) -> tuple[float, float]:
    """Estimate (yaw, pitch) in degrees from 68 landmarks [68, 2] in a crop of `size` pixels; nan where they are unknown.

    Good for a distribution, not for a single face: the model is one average head, the camera is assumed, and pitch has an
    offset. Positive yaw turns the nose to the right of the image, positive pitch turns it up.
    """
    corners = points[list(POSE_LANDMARKS)].astype(np.float64)
    if not np.isfinite(corners).all():
        return float("nan"), float("nan")
    camera = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float64)
    model = POSE_MODEL * [1, -1, -1]  # as the image: y down, z away from the camera
    try:
        is_solved, rotation, _ = cv2.solvePnP(model, corners, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:
        return float("nan"), float("nan")
    if not is_solved:
        return float("nan"), float("nan")
    nose = cv2.Rodrigues(rotation)[0] @ np.array([0.0, 0.0, -1.0])  # where it points, in the camera's axes
    return float(np.degrees(np.arctan2(nose[0], -nose[2]))), float(np.degrees(np.arcsin(np.clip(-nose[1], -1, 1))))


def measure_light(image: np.ndarray) -> tuple[float, float, float]:
    """Return mean and standard deviation of the grey values of an RGB crop [H, W, 3], and its sharpness."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = cv2.INTER_AREA if len(grey) > GREY_SIDE else cv2.INTER_LINEAR
    grey = cv2.resize(grey, (GREY_SIDE, GREY_SIDE), interpolation=scale)
    return float(grey.mean()), float(grey.std()), float(cv2.Laplacian(grey, cv2.CV_64F).var())
