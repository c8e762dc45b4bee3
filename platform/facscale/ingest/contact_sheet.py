"""Contact sheets of data sets: sample crops in a grid, to check a data set by eye."""

from __future__ import annotations

import cv2
import numpy as np

from facscale.data import Dataset, pixels
from facscale.data.manifest import ABOUT
from facscale.data.storage import Folder
from facscale.ingest.work_store import put_file

FILE = f"{ABOUT}/contact_sheet.png"
GAP = 2  # pixels between crops
GREEN = (80, 255, 80)


def draw_contact_sheet(
    dataset_url: str, *, identities: int = 8, crops: int = 10, size: int = 96, landmarks: bool = False
) -> np.ndarray:
    """Draw an RGB image [H, W, 3] uint8: a row per identity, with `crops` crops of `size` pixels spread over its runs.

    The identities are spread evenly over the data set; a data set of expressions has a row per expression instead.
    `landmarks`: draw them as green dots. Raises DataError if there is no data set.
    """
    data = Dataset(dataset_url)
    group = _read_expressions(data) if data.manifest.expressions else data.runs.identity
    groups = np.unique(group[group >= 0])
    if not data.manifest.expressions:
        groups = groups[np.linspace(0, len(groups) - 1, min(identities, len(groups))).round().astype(int)]
    runs_of_groups = [np.flatnonzero(group == number) for number in groups]
    return np.concatenate(
        [_draw_row(data, runs, crops=crops, size=size, landmarks=landmarks) for runs in runs_of_groups]
    )


def write_contact_sheet(output: str) -> None:
    """Write the contact sheet beside the data set, unless it exists."""
    folder = Folder(output)
    if folder.find_about(FILE):
        return
    image = draw_contact_sheet(output, landmarks=True)
    with put_file(folder, FILE) as path:
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def _read_expressions(data: Dataset) -> np.ndarray:
    """Read the expression of the first frame of each run [R]."""
    first = np.cumsum(data.runs.frames) - data.runs.frames
    expressions: np.ndarray = data.read_columns(["expression"])["expression"].to_numpy()[first]
    return expressions


def _draw_row(data: Dataset, runs: np.ndarray, *, crops: int, size: int, landmarks: bool) -> np.ndarray:
    """Draw crops spread evenly over the frames of the runs with the numbers `runs`."""
    index = data.runs
    ends = np.cumsum(index.frames[runs])
    row = np.full((size + GAP, crops * (size + GAP), 3), 255, np.uint8)
    location, table = None, None
    for column, position in enumerate(np.linspace(0, ends[-1] - 1, min(crops, int(ends[-1]))).round().astype(int)):
        number = int(np.searchsorted(ends, position, side="right"))
        run = runs[number]
        if location != (int(index.shard[run]), int(index.row_group[run])):
            location = int(index.shard[run]), int(index.row_group[run])
            table = data.read(shard=location[0], row_group=location[1], columns=["jpeg", "landmarks"])
        assert table is not None
        frame = int(index.start[run] + position - (ends[number] - index.frames[run]))
        points = table["landmarks"][frame].as_py() if landmarks else []
        left = column * (size + GAP)
        row[:size, left : left + size] = _draw_crop(table["jpeg"][frame].as_py(), points, size)
    return row


def _draw_crop(jpeg: bytes, points: list[float], size: int) -> np.ndarray:
    image = pixels.decode_jpeg(jpeg)
    scale = size / image.shape[0]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    crop: np.ndarray = cv2.resize(image, (size, size), interpolation=interpolation)
    for x, y in np.array(points, dtype=float).reshape(-1, 2):
        if np.isfinite(x):
            cv2.circle(crop, (round((x + 0.5) * scale - 0.5), round((y + 0.5) * scale - 0.5)), 1, GREEN, -1)
    return crop
