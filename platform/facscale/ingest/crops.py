"""Turns tracked faces into steady, aligned crops.

Before the similarity transform is computed, the eye centres are smoothed over time within their track (Gaussian,
sigma 40 ms, two frames to each side), so that the crops of a video do not jitter with the detector's noise. Only the
crop is smoothed; the stored landmarks are those of the frame itself. Frames that are further apart in time than the
Gaussian reaches (a source read at 1 frame/s) do not influence each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby, repeat

import numpy as np

from facscale.data import align
from facscale.ingest import flow
from facscale.ingest.frames import Frame
from facscale.ingest.quality import CropQuality, measure_quality
from facscale.ingest.tracking import TrackedFace
from facscale.spec.pipelines import Crop

SIGMA_S = 0.04
RADIUS = 2  # frames to each side


@dataclass(frozen=True)
class FaceCrop:
    """One aligned crop."""

    number: int  # of the frame
    time_s: float
    track: int
    image: np.ndarray  # [S, S, 3] uint8, RGB: the face square with its margin
    points: np.ndarray  # [68, 2] float32 in crop pixels; NaN when unknown
    flow: np.ndarray | None = None  # int8 [2 f f], see `flow.pack_flow`; None when the flow is not computed
    quality: CropQuality = field(default_factory=CropQuality)


def crop_faces(faces: Iterable[TrackedFace], crop: Crop, *, flow_to: int = 0) -> Iterator[FaceCrop]:
    """Yield the crop of each face, in order, a few frames late. Faces whose eyes coincide are left out.

    `flow_to`: each crop gets its optical flow to the frame whose number is higher by this; 0: no flow.
    """
    n_ahead = max(RADIUS, flow_to)
    size = RADIUS + 1 + n_ahead
    for _, track in groupby(faces, key=lambda face: face.track):
        window: deque[TrackedFace | None] = deque([None] * size, maxlen=size)
        for latest in chain(track, repeat(None, n_ahead)):
            window.append(latest)
            face = window[RADIUS]
            if face is None:
                continue
            neighbours = [neighbour for neighbour in list(window)[: 2 * RADIUS + 1] if neighbour]
            aligned = align_face(face, neighbours, crop)
            if aligned is None:
                continue
            image, points, matrix = aligned
            packed_flow = None
            if flow_to:
                number = face.frame.number + flow_to
                later = next((item.frame for item in window if item and item.frame.number == number), None)
                packed_flow = _compute_flow(image, later, matrix, crop)
            square, to_square = align.cut_face_square(image, matrix, crop)
            quality = measure_quality(square, image=face.frame.image, matrix=to_square, disagreement=face.disagreement)
            yield FaceCrop(face.frame.number, face.frame.time_s, face.track, image, points, packed_flow, quality)


def align_face(
    face: TrackedFace, neighbours: list[TrackedFace], crop: Crop
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the stored image [S, S, 3] of a face, its landmarks [68, 2] float32 there, and the matrix [2, 3] from the frame.

    neighbours: the faces of its track within RADIUS frames, itself among them. None where its eyes coincide.
    """
    matrix = _fit_alignment(face, neighbours, crop)
    if matrix is None:
        return None
    image = align.warp(face.frame.image, matrix, crop.stored_size)
    return image, align.transform_points(face.points.astype(np.float64), matrix).astype(np.float32), matrix


def _compute_flow(image: np.ndarray, later: Frame | None, matrix: np.ndarray, crop: Crop) -> np.ndarray:
    """Compute the packed flow from a crop to a later frame.

    The later frame is aligned by the matrix of the crop, so that the flow includes the motion of the head.
    """
    if later is None:
        return flow.make_unknown_flow(crop.stored_size)
    return flow.pack_flow(flow.compute_tvl1(image, align.warp(later.image, matrix, crop.stored_size)))


def _fit_alignment(face: TrackedFace, neighbours: list[TrackedFace], crop: Crop) -> np.ndarray | None:
    if np.isnan(face.points).any():
        return align.fit_box(face.box, crop)
    return align.fit_similarity(_smooth_eyes(face, neighbours), crop)


def _smooth_eyes(face: TrackedFace, neighbours: list[TrackedFace]) -> np.ndarray:
    """Average the eye centres [2, 2] of `face` with those of its neighbours in time (which include itself)."""
    seconds = np.array([neighbour.frame.time_s - face.frame.time_s for neighbour in neighbours])
    weights = np.exp(-0.5 * (seconds / SIGMA_S) ** 2)
    centres = np.stack([align.locate_eyes(neighbour.points) for neighbour in neighbours])
    return np.tensordot(weights / weights.sum(), centres, axes=1)
