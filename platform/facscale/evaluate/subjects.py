"""What each person contributes to F1: counts by person and fold, and every person's own F1.

People are the independent units of an AU data set (the frames of a video resemble each other), so whatever asks how sure
a figure is draws or leaves out people; with their counts at hand no frame is looked at again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facscale.evaluate.f1 import Counts, mean
from facscale.evaluate.predictions import Predictions


class People(NamedTuple):
    """Who is in the tested frames."""

    names: tuple[str, ...]  # of S people, sorted
    person: np.ndarray  # [N]: the number of each frame's
    tested: np.ndarray  # bool [S, F]: whom each fold tests


@dataclass(frozen=True)
class SubjectCounts:
    """S people in F folds; all 0 where a fold does not test someone."""

    names: tuple[str, ...]
    counts: Counts  # int64 [S, F, n]
    tested: np.ndarray  # bool [S, F]

    @property
    def f1(self) -> np.ndarray:
        """Each person's F1 [S]: mean over the AUs with a positive frame there, then over the folds; nan for none."""
        return mean(mean(self.counts.f1, axis=2), axis=1)


def people(predictions: Predictions) -> People:
    """Of predictions of N frames from F folds."""
    names, person = np.unique(predictions.identity.astype(np.str_), return_inverse=True)
    tested = np.zeros((len(names), len(predictions.folds)), bool)
    tested[person, predictions.fold] = True
    return People(tuple(names.tolist()), person, tested)


def subject_counts(predictions: Predictions, *, threshold: float) -> SubjectCounts:
    """TP, FP and FN of each person in each fold; an AU is found from `threshold` on."""
    names, person, tested = people(predictions)
    cell = person * len(predictions.folds) + predictions.fold

    def counted(frames: np.ndarray) -> np.ndarray:
        by_cell = np.zeros((tested.size, frames.shape[1]), np.int64)
        for number, column in enumerate(frames.T):
            by_cell[:, number] = np.bincount(cell[column], minlength=tested.size)
        return by_cell.reshape(*tested.shape, -1)

    found, positive, negative = predictions.probability >= threshold, predictions.au == 1, predictions.au == 0
    counts = Counts(counted(found & positive), counted(found & negative), counted(~found & positive))
    return SubjectCounts(names, counts, tested)


def per_subject(predictions: Predictions, *, threshold: float) -> dict[str, float]:
    """F1 of each person in [0, 1]: mean over the AUs with a positive frame there, and over the folds that test them."""
    found = subject_counts(predictions, threshold=threshold)
    return dict(zip(found.names, found.f1.tolist(), strict=True))


def frames_of(subjects: Collection[str], *, identity: np.ndarray) -> np.ndarray:
    """The numbers of the frames that show one of `subjects`; identity [N] says whom each frame shows."""
    return np.flatnonzero(np.isin(identity, sorted(subjects)))


def positives(au: np.ndarray, *, identity: np.ndarray) -> dict[str, np.ndarray]:
    """Positive frames of each AU [n] by subject, which `folds` balances."""
    names, inverse = np.unique(identity, return_inverse=True)
    counts = np.zeros((len(names), au.shape[1]), np.int64)
    np.add.at(counts, inverse, au == 1)
    return {str(name): line for name, line in zip(names, counts, strict=True)}
