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
from facscale.ingest import flow
from facscale.ingest.tracking import Sighting
from facscale.spec.pipelines import Crop

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
    flow: np.ndarray | None = None  # int8 [2 f f], see `flow.packed`; None when it was not asked for


def crops(sightings: Iterable[Sighting], crop: Crop, *, flow_to: int = 0) -> Iterator[Face]:
    """The crops of all sightings; a few frames are held back. Faces whose eyes coincide are left out.

    `flow_to`: each face gets its optical flow to the frame whose number is higher by this; 0: none.
    """
    ahead = max(REACH, flow_to)
    for _, track in groupby(sightings, key=lambda sighting: sighting.track):
        window: deque[Sighting | None] = deque([None] * (REACH + 1 + ahead), maxlen=REACH + 1 + ahead)
        for sighting in chain(track, repeat(None, ahead)):
            window.append(sighting)
            this, near = window[REACH], [other for other in list(window)[: 2 * REACH + 1] if other]
            matrix = _alignment(this, near, crop) if this else None
            if this and matrix is not None:
                later = [other for other in window if other and other.frame.number == this.frame.number + flow_to]
                yield _face(this, matrix, crop, later=later if flow_to else None)


def _face(this: Sighting, matrix: np.ndarray, crop: Crop, *, later: list[Sighting] | None) -> Face:
    """`later`: none or one frame to which the flow is told; the same transform aligns it, so that the head's motion shows."""
    image = align.warp(this.frame.image, matrix, crop.size)
    points = align.moved(this.points.astype(np.float64), matrix).astype(np.float32)
    told = None
    if later is not None:
        told = flow.unknown(crop.size)
        for other in later:
            told = flow.packed(flow.tvl1(image, align.warp(other.frame.image, matrix, crop.size)))
    return Face(this.frame.number, this.frame.time_s, this.track, image, points, told)


def _alignment(this: Sighting, window: list[Sighting], crop: Crop) -> np.ndarray | None:
    if np.isnan(this.points).any():
        return align.square(this.box, crop)
    return align.similarity(_smoothed(window, this), crop)


def _smoothed(window: list[Sighting], this: Sighting) -> np.ndarray:
    """Eye centres [2, 2] of `this`, averaged with those of its neighbours in time."""
    seconds = np.array([other.frame.time_s - this.frame.time_s for other in window])
    weights = np.exp(-0.5 * (seconds / SIGMA_S) ** 2)
    centres = np.stack([align.eyes(other.points) for other in window])
    return np.tensordot(weights / weights.sum(), centres, axes=1)
