"""A contact sheet of a data set: a look at it says more than its counts."""

from __future__ import annotations

import cv2
import numpy as np

from facscale.data import Dataset, pixels
from facscale.data.storage import Folder
from facscale.ingest.parts import put_file

PICTURE = "contact_sheet.png"
GAP = 2  # pixels between crops
GREEN = (80, 255, 80)


def contact_sheet(
    dataset_url: str, *, identities: int = 8, crops: int = 10, size: int = 96, landmarks: bool = False
) -> np.ndarray:
    """An RGB picture [H, W, 3] uint8: a row an identity, `crops` crops spread over its runs, `size` pixels each.

    The identities are spread evenly over the data set; of expressions, each has a row instead. Raises DataError for
    what is no data set.
    """
    data = Dataset(dataset_url)
    group = _expressions(data) if data.manifest.expressions else data.runs.identity
    shown = np.unique(group[group >= 0])
    if not data.manifest.expressions:
        shown = shown[np.linspace(0, len(shown) - 1, min(identities, len(shown))).round().astype(int)]
    of_each = [np.flatnonzero(group == one) for one in shown]
    return np.concatenate([_row(data, mine, crops=crops, size=size, landmarks=landmarks) for mine in of_each])


def _expressions(data: Dataset) -> np.ndarray:
    """That of the first frame of each run [R]."""
    first = np.cumsum(data.runs.frames) - data.runs.frames
    found: np.ndarray = data.table(["expression"])["expression"].to_numpy()[first]
    return found


def write_sheet(output: str) -> None:
    """Put the contact sheet beside the data set, unless it is there."""
    folder = Folder(output)
    if folder.exists(PICTURE):
        return
    picture = contact_sheet(output, landmarks=True)
    with put_file(folder, PICTURE) as path:
        cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def _row(data: Dataset, mine: np.ndarray, *, crops: int, size: int, landmarks: bool) -> np.ndarray:
    """Crops spread over the runs with the numbers `mine`."""
    runs = data.runs
    ends = np.cumsum(runs.frames[mine])
    row = np.full((size + GAP, crops * (size + GAP), 3), 255, np.uint8)
    tables: dict[tuple[int, int], object] = {}
    for place, position in enumerate(np.linspace(0, ends[-1] - 1, min(crops, int(ends[-1]))).round().astype(int)):
        number = int(np.searchsorted(ends, position, side="right"))
        run = mine[number]
        where = int(runs.shard[run]), int(runs.row_group[run])
        if where not in tables:
            tables = {where: data.read(shard=where[0], row_group=where[1], columns=["jpeg", "landmarks"])}
        table = tables[where]
        index = int(runs.start[run] + position - (ends[number] - runs.frames[run]))
        crop = _drawn(table["jpeg"][index].as_py(), table["landmarks"][index].as_py() if landmarks else [], size)  # type: ignore[index]
        left = place * (size + GAP)
        row[:size, left : left + size] = crop
    return row


def _drawn(jpeg: bytes, points: list[float], size: int) -> np.ndarray:
    image = pixels.jpeg(jpeg)
    scale = size / image.shape[0]
    drawn: np.ndarray = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for x, y in np.array(points, dtype=float).reshape(-1, 2):
        if np.isfinite(x):
            cv2.circle(drawn, (round((x + 0.5) * scale - 0.5), round((y + 0.5) * scale - 0.5)), 1, GREEN, -1)
    return drawn
