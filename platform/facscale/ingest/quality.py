"""Figures of a crop's quality. They are stored beside each crop, and summarized in the report of the pipeline.

- `disagreement`: mean distance between two fits of the landmarks to the same face, from different starts, in distances
  between the eyes. Where they agree, they are mostly right; NaN for detectors without landmarks.
- `sharpness`: see `measure_sharpness`.
- `outside`: share of the crop that lies outside of the picture, where the edge of the picture is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from facscale.data import align

COLUMNS = ("disagreement", "sharpness", "outside")  # float32, in the shards
SHARPNESS_SIDE = 128  # pixels; sharpness is measured at this size, so that it does not depend on that of the crop
MAX_DISAGREEMENT = 0.1  # eye distances; above, the landmarks and the crop are doubtful
MAX_OUTSIDE = 0.25  # above, the crop is counted as cut off


@dataclass(frozen=True)
class CropQuality:
    """The three figures of one crop."""

    disagreement: float = float("nan")
    sharpness: float = float("nan")
    outside: float = float("nan")


@dataclass(frozen=True)
class QualitySummary:
    """The quality of many crops: means (None where unknown) and counts."""

    disagreement: float | None = None
    sharpness: float | None = None
    outside: float | None = None
    doubtful: int = 0  # crops with a disagreement above MAX_DISAGREEMENT
    cut_off: int = 0  # crops that lie outside of the picture by more than MAX_OUTSIDE

    @property
    def columns(self) -> dict[str, Any]:
        """The values by the names of the fields of a report."""
        return dict(vars(self))


def measure_quality(crop: np.ndarray, *, image: np.ndarray, matrix: np.ndarray, disagreement: float) -> CropQuality:
    """Measure an RGB crop [S, S, 3] that the similarity `matrix` [2, 3] cut from `image` [H, W, 3]."""
    outside = measure_outside(image, matrix, len(crop))
    return CropQuality(disagreement, sharpness=measure_sharpness(crop), outside=outside)


def measure_sharpness(crop: np.ndarray) -> float:
    """Measure the variance of the Laplacian of the grey levels (0 to 255) of an RGB crop, at 128 x 128 pixels.

    It is 0 for a uniform picture, and lower for a blurred face than for the same face when sharp.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    if len(grey) != SHARPNESS_SIDE:
        interpolation = cv2.INTER_AREA if len(grey) > SHARPNESS_SIDE else cv2.INTER_LINEAR
        grey = cv2.resize(grey, (SHARPNESS_SIDE, SHARPNESS_SIDE), interpolation=interpolation)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def measure_outside(image: np.ndarray, matrix: np.ndarray, size: int) -> float:
    """Measure the share (0 to 1) of a crop of `size` pixels, made by `matrix`, that lies outside of the picture."""
    height, width = image.shape[:2]
    picture = align.transform_points(_list_corners(width, height), matrix).astype(np.float32)
    inside, _ = cv2.intersectConvexConvex(picture, _list_corners(size, size).astype(np.float32))
    return min(1.0, max(0.0, 1 - inside / size**2))


class QualityMeter:
    """Sums up the quality of crops as they are made."""

    def __init__(self) -> None:
        self._sums, self._counts = np.zeros(3), np.zeros(3, int)
        self._doubtful = self._cut_off = 0

    def add(self, crops: Iterable[CropQuality]) -> None:
        """Add crops."""
        values = np.array([[getattr(crop, name) for name in COLUMNS] for crop in crops]).reshape(-1, 3)
        self._sums += np.nansum(values, axis=0)
        self._counts += np.isfinite(values).sum(axis=0)
        self._doubtful += int((values[:, 0] > MAX_DISAGREEMENT).sum())
        self._cut_off += int((values[:, 2] > MAX_OUTSIDE).sum())

    def summarize(self) -> QualitySummary:
        """Return means and counts."""
        disagreement, sharpness, outside = (
            round(float(total / count), 4) if count else None
            for total, count in zip(self._sums, self._counts, strict=True)
        )
        return QualitySummary(disagreement, sharpness, outside, doubtful=self._doubtful, cut_off=self._cut_off)


def merge_summaries(summaries: Iterable[tuple[int, Mapping[str, Any]]]) -> QualitySummary:
    """Merge the summaries of items, each given as the number of its crops and its values by name."""
    pairs = list(summaries)
    disagreement, sharpness, outside = (_average(pairs, name) for name in COLUMNS)
    doubtful, cut_off = (sum(values[name] for _, values in pairs) for name in ("doubtful", "cut_off"))
    return QualitySummary(disagreement, sharpness, outside, doubtful=doubtful, cut_off=cut_off)


def _average(summaries: Iterable[tuple[int, Mapping[str, Any]]], name: str) -> float | None:
    """Average a value over all crops of which it is known; None if there are none."""
    known = [(crops, values[name]) for crops, values in summaries if crops and values[name] is not None]
    total = sum(crops for crops, _ in known)
    return round(float(sum(crops * value for crops, value in known) / total), 4) if total else None


def _list_corners(width: int, height: int) -> np.ndarray:
    """Return the corners [4, 2] of a picture: pixel centres have whole numbers."""
    return np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
