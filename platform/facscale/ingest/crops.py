"""From sightings of a face to steady, aligned crops.

A documented choice: before the similarity is computed, the eye centres are smoothed over time within their track
(Gaussian, sigma 40 ms, two frames to each side), so that the crops of a video do not tremble with the detector's noise.
Only the crop is smoothed; the stored landmarks are those of the frame itself. Frames that lie further apart in time
than the Gaussian reaches (a source read at 1 frame/s) do not influence each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, repeat

import numpy as np

from facscale.data import align
from facscale.ingest.tracking import Sighting
from facscale.spec.models import Crop

SIGMA_S = 0.04
REACH = 2  # frames to each side


@dataclass(frozen=True)
class Face:
    """One aligned crop."""

    number: int
    time_s: float
    track: int
    image: np.ndarray  # [S, S, 3] uint8, RGB
    points: np.ndarray  # [68, 2] float32 in crop pixels; NaN when unknown


def crops(sightings: Iterable[Sighting], crop: Crop) -> Iterator[Face]:
    """The crops of all sightings; `REACH` frames are held back. Faces whose eyes coincide are left out."""
    for _, track in groupby(sightings, key=lambda sighting: sighting.track):
        window: deque[Sighting | None] = deque([None] * (2 * REACH + 1), maxlen=2 * REACH + 1)
        for sighting in chain(track, repeat(None, REACH)):
            window.append(sighting)
            this = window[REACH]
            face = _crop(this, [other for other in window if other], crop) if this else None
            if face:
                yield face


def _crop(this: Sighting, window: list[Sighting], crop: Crop) -> Face | None:
    if np.isnan(this.points).any():
        matrix: np.ndarray | None = align.square(this.box, crop)
    else:
        matrix = align.similarity(_smoothed(window, this), crop)
    if matrix is None:
        return None
    image = align.warp(this.frame.image, matrix, crop.size)
    points = align.moved(this.points.astype(np.float64), matrix).astype(np.float32)
    return Face(this.frame.number, this.frame.time_s, this.track, image, points)


def _smoothed(window: list[Sighting], this: Sighting) -> np.ndarray:
    """Eye centres [2, 2] of `this`, averaged with those of its neighbours in time."""
    seconds = np.array([other.frame.time_s - this.frame.time_s for other in window])
    weights = np.exp(-0.5 * (seconds / SIGMA_S) ** 2)
    centres = np.stack([align.eyes(other.points) for other in window])
    return np.tensordot(weights / weights.sum(), centres, axes=1)
