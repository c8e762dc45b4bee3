"""Action unit labels as arrays: int8 [N, n], 1 active, 0 not, -1 not labelled; and the weights that balance them.

`r` is an AU's base rate: the share of positive frames among those labelled. Weights are computed from the training frames
of a fold only, by one of three formulas (`compute_label_weights`); papers that state one use the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from facscale.data.shards import Dataset
from facscale.spec.models import Weighting


def load_labels(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Load the person of each frame [N] str and its labels [N, n] int8, in stored order; reads only these columns."""
    table = dataset.read_columns(["identity", "au"])
    identity = np.asarray(table["identity"].to_pylist())
    au = table["au"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return identity, au.reshape(len(identity), -1).astype(np.int8)


def load_parts(dataset: Dataset) -> np.ndarray | None:
    """Load the part of the published split of each frame [N] str, "" for none; None for a data set without parts."""
    if "part" not in dataset.arrow_schema.names:
        return None
    return np.asarray(dataset.read_columns(["part"])["part"].to_pylist())


@dataclass(frozen=True, eq=False)
class IntensityLabels:
    """Intensities of the N frames of a data set."""

    rows: dict[tuple[str, str, int], int]  # by identity, video and frame
    intensity: np.ndarray  # [N, n] int8: 0 to 5, or -1 for not labelled

    @classmethod
    def load(cls, dataset: Dataset) -> Self:
        """Read these columns of a data set that has AUs. Where only occurrences were coded, all intensities are -1."""
        table = dataset.read_columns(["identity", "video", "frame", "intensity"])
        keys = zip(*(table[name].to_pylist() for name in ("identity", "video", "frame")), strict=True)
        values = table["intensity"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls({key: row for row, key in enumerate(keys)}, values.reshape(len(table), -1).astype(np.int8))

    @property
    def is_labelled(self) -> np.ndarray:
        """Whether an AU has any intensity, bool [n]."""
        return self.intensity.max(axis=0, initial=-1) >= 0

    def select_aus(self, aus: Sequence[int]) -> list[int]:
        """Select those of the data set's n AUs that have an intensity."""
        return [au for au, is_labelled in zip(aus, self.is_labelled, strict=True) if is_labelled]

    def find(self, *, identity: np.ndarray, video: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Find the intensities [M, n] of M frames of the data set."""
        keys = zip(identity.tolist(), video.tolist(), frame.tolist(), strict=True)
        return self.intensity[[self.rows[key] for key in keys]]


def union_aus(lists: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Return the AU numbers of several data sets, each once, in the order of first appearance."""
    return tuple(dict.fromkeys(au for aus in lists for au in aus))


def reindex_labels(labels: np.ndarray, *, given: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """Move labels [N, n] of the AUs `given` to the columns of the AUs `wanted` [N, m]; -1 for an AU that is not given."""
    if tuple(given) == tuple(wanted):
        return labels
    result = np.full((len(labels), len(wanted)), -1, labels.dtype)
    shared = [au for au in wanted if au in given]
    result[:, [wanted.index(au) for au in shared]] = labels[:, [given.index(au) for au in shared]]
    return result


def compute_base_rates(au: np.ndarray) -> np.ndarray:
    """Compute the base rate r of each AU [n] in [0, 1]; nan for one that is never labelled."""
    labelled = (au >= 0).sum(axis=0)
    positive = (au == 1).sum(axis=0)
    rate: np.ndarray = np.divide(positive, labelled, out=np.full(au.shape[1], np.nan), where=labelled > 0)
    return rate


def compute_au_weights(au: np.ndarray) -> np.ndarray:
    """Compute one weight per AU [n], w = (1 / r) / sum(1 / r) * n, for positives and negatives alike; their mean is 1.

    This is the weighting of JAA-Net, ME-GraphAU and AUNet. An AU without a positive frame counts as if it had one; one
    that is never labelled weighs 0 and does not count in n.
    """
    labelled = (au >= 0).sum(axis=0)
    inverse = 1 / np.maximum(compute_base_rates(au), 1 / np.maximum(labelled, 1))
    is_labelled = ~np.isnan(inverse)
    weights = np.where(is_labelled, inverse, 0.0)
    scaled: np.ndarray = weights / max(weights.sum(), 1e-12) * is_labelled.sum()
    return scaled.astype(np.float32)


def compute_class_weights(au: np.ndarray) -> np.ndarray:
    """Compute weights [2, n] of the negatives (row 0) and positives (row 1) of each AU, inverse to their frequency.

    1 / (2 (1 - r)) and 1 / (2 r): both classes have the same total weight and the mean weight of a label is 1. An AU
    whose labels are all the same keeps weight 1; one that is never labelled weighs 0.
    """
    rate = compute_base_rates(au)
    is_single_class = (rate == 0) | (rate == 1)
    safe = np.where(is_single_class | np.isnan(rate), 0.5, rate)
    weights = np.stack([0.5 / (1 - safe), 0.5 / safe])
    weights[:, np.isnan(rate)] = 0
    return weights.astype(np.float32)


def compute_label_weights(au: np.ndarray, *, weighting: Weighting) -> np.ndarray:
    """Compute weights [2, n] float32 of the negatives (row 0) and positives (row 1) of each AU from labels [N, n].

    With base rates r and n labelled AUs::

        class   1 / (2 (1 - r)) and 1 / (2 r)                   `compute_class_weights`
        au      (1 / r) / sum(1 / r) * n, both rows the same    `compute_au_weights`
        none    1: plain binary cross-entropy
    """
    if weighting == "class":
        return compute_class_weights(au)
    weights = compute_au_weights(au) if weighting == "au" else np.ones(au.shape[1], np.float32)
    return np.stack([weights, weights])
