"""How much of a face the training samples of a job show, from the landmarks of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from facscale.data import Dataset, augment
from facscale.data.rows import to_numpy
from facscale.spec.models import Augment

MAX_FRAMES = 2000
SAMPLES = 20  # augmentations of each frame
BROWS, CHIN = slice(17, 27), slice(7, 10)  # of iBUG's 68 points


@dataclass(frozen=True)
class Framing:
    """Shares (0 to 1) of samples in which a point of the face lies outside, and the size of the face in them."""

    brows: float  # any of the ten points
    chin: float  # any of the three points at the tip
    eye_distance: float  # between the eye centres, as a share of the sample's side; geometric mean

    def __str__(self) -> str:
        return f"a brow outside in {self.brows:.1%}, the chin in {self.chin:.1%}, eyes {self.eye_distance:.3f} apart"


def read_landmarks(dataset: Dataset, *, count: int = MAX_FRAMES) -> np.ndarray:
    """Read the landmarks [N, 136] of about `count` frames, evenly spread over the first frames of at most 16 row groups.

    Frames with unknown landmarks are left out. Raises CorruptError, DataError.
    """
    groups = [(s, g) for s, shard in enumerate(dataset.manifest.shards) for g in range(len(shard.row_groups))]
    groups = groups[:: max(1, len(groups) // 16)]
    tables = [dataset.read(shard=shard, row_group=group, columns=["landmarks"]) for shard, group in groups]
    points = np.concatenate([to_numpy(table["landmarks"]) for table in tables])
    points = points[np.isfinite(points).all(1)]
    return points[:: max(1, len(points) // count)]


def measure_framing(points: np.ndarray, spec: Augment, *, stored: int, margin: float, seed: int = 0) -> Framing:
    """Measure samples of faces with landmarks `points` [N, 136] in pixels of stored images of side `stored`."""
    random = np.random.default_rng(seed)
    drawn = augment.sample_params(spec, shape=(len(points), SAMPLES), random=random, margin=margin)
    return _measure(points, drawn, stored=stored)


def measure_eval_framing(points: np.ndarray, spec: Augment, *, stored: int, margin: float) -> Framing:
    """Measure what evaluation shows; arguments as in `measure_framing`."""
    drawn = np.broadcast_to(augment.eval_params(spec, margin=margin), (len(points), 1, len(augment.PARAMETERS)))
    return _measure(points, drawn.copy(), stored=stored)


def _measure(points: np.ndarray, drawn: np.ndarray, *, stored: int) -> Framing:
    """points [N, 136], drawn [N, V, P]."""
    moved = augment.transform_landmarks(torch.from_numpy(points), torch.from_numpy(drawn), stored=stored, size=1)
    inside = ((moved >= -0.5) & (moved <= 0.5)).all(-1)  # [N, V, 68]; a pixel of side 1 reaches from -0.5 to 0.5
    eyes = moved[:, :, 36:42].mean(2) - moved[:, :, 42:48].mean(2)
    return Framing(
        brows=1 - float(inside[:, :, BROWS].all(-1).double().mean()),
        chin=1 - float(inside[:, :, CHIN].all(-1).double().mean()),
        eye_distance=float(eyes.norm(dim=-1).log().mean().exp()),
    )
