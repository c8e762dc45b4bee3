"""Action unit labels as arrays: int8 [N, n], 1 active, 0 not, -1 not labelled; and the weights that balance them.

`r` is an AU's base rate: positive frames among those labelled. Weights come from the training frames of a fold only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from facscale.data.errors import DataError
from facscale.data.shards import Dataset

UNKNOWN = 9  # BP4D's code for "not visible"


def labels_of(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The person of each frame [N] str and its labels [N, n] int8, in stored order; only these columns are read."""
    table = dataset.table(["identity", "au"])
    identity = np.asarray(table["identity"].to_pylist())
    au = table["au"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return identity, au.reshape(len(identity), -1).astype(np.int8)


def occurrence(labels: np.ndarray) -> np.ndarray:
    """Labels [N, n] as int8 with 0, 1 and -1; BP4D's 9 becomes -1. Raises DataError for any other value."""
    codes = np.asarray(labels)
    if codes.ndim != 2:
        raise DataError(f"AU labels have the shape [frames, AUs], not {list(codes.shape)}")
    strange = np.setdiff1d(np.unique(codes), (-1, 0, 1, UNKNOWN))
    if strange.size:
        raise DataError(f"AU labels are 0, 1, 9 or -1, but these hold {strange.tolist()}; are they intensities?")
    return np.where(codes == UNKNOWN, -1, codes).astype(np.int8)


def from_intensity(intensity: np.ndarray, *, at_least: int = 2) -> np.ndarray:
    """Occurrence [N, n] from intensities 0..5 (-1 not labelled); DISFA's papers count an AU from 2 on."""
    return np.where(intensity < 0, -1, intensity >= at_least).astype(np.int8)


def union(lists: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The AU numbers of several data sets, each once, those of the first set first."""
    return tuple(dict.fromkeys(au for aus in lists for au in aus))


def spread(labels: np.ndarray, *, given: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """Labels [N, n] of the AUs `given` in the columns of `wanted` [N, m]; -1 where one is not given."""
    if tuple(given) == tuple(wanted):
        return labels
    result = np.full((len(labels), len(wanted)), -1, labels.dtype)
    both = [au for au in wanted if au in given]
    result[:, [wanted.index(au) for au in both]] = labels[:, [given.index(au) for au in both]]
    return result


def frequencies(au: np.ndarray) -> np.ndarray:
    """Base rate r of each AU [n] in [0, 1]; nan for one that is never labelled."""
    labelled = (au >= 0).sum(axis=0)
    positive = (au == 1).sum(axis=0)
    rate: np.ndarray = np.divide(positive, labelled, out=np.full(au.shape[1], np.nan), where=labelled > 0)
    return rate


def inverse_frequency(au: np.ndarray) -> np.ndarray:
    """One weight an AU [n], w = (1 / r) / sum(1 / r) * n, for positives and negatives alike; their mean is 1.

    As JAA-Net, ME-GraphAU and AUNet weigh AUs. An AU without a positive frame counts as if it had one; one that is
    never labelled weighs 0 and does not count in n.
    """
    inverse = 1 / _guarded(au)
    known = ~np.isnan(inverse)
    weights = np.where(known, inverse, 0.0)
    scaled: np.ndarray = weights / max(weights.sum(), 1e-12) * known.sum()
    return scaled.astype(np.float32)


def class_weights(au: np.ndarray) -> np.ndarray:
    """Weights [2, n] of the negatives (row 0) and positives (row 1) of each AU, inverse to their frequency.

    1 / (2 (1 - r)) and 1 / (2 r): both classes together weigh the same and the mean weight of a label is 1. An AU of
    which all labels are the same keeps weight 1; one that is never labelled weighs 0.
    """
    rate = frequencies(au)
    one_sided = (rate == 0) | (rate == 1)
    safe = np.where(one_sided | np.isnan(rate), 0.5, rate)
    weights = np.stack([0.5 / (1 - safe), 0.5 / safe])
    weights[:, np.isnan(rate)] = 0
    return weights.astype(np.float32)


def positive_weights(au: np.ndarray) -> np.ndarray:
    """Negatives a positive of each AU [n], (1 - r) / r: the `pos_weight` of torch's binary cross-entropy."""
    rate = _guarded(au)
    weights: np.ndarray = np.nan_to_num((1 - rate) / rate, nan=1.0)
    return weights.astype(np.float32)


def _guarded(au: np.ndarray) -> np.ndarray:
    """Base rates, with one positive frame where there is none, so that nothing divides by zero."""
    labelled = (au >= 0).sum(axis=0)
    rate: np.ndarray = np.maximum(frequencies(au), 1 / np.maximum(labelled, 1))
    return rate
