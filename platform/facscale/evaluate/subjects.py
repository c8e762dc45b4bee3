"""F1 by subject: confusion counts by person and fold, and the F1 of each person.

People are the independent units of an AU data set, since the frames of a video resemble each other. Everything that
estimates uncertainty draws or leaves out people; with their counts at hand it need not look at frames again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facscale.evaluate.f1 import ConfusionCounts, nanmean
from facscale.evaluate.predictions import Predictions


class SubjectIndex(NamedTuple):
    """The people in N test frames of F folds."""

    names: tuple[str, ...]  # of S people, sorted
    person: np.ndarray  # [N]: index into `names` of the person in each frame
    tested: np.ndarray  # bool [S, F]: whether a fold tests a person


@dataclass(frozen=True)
class SubjectCounts:
    """Counts of S people in F folds; all 0 where a fold does not test a person."""

    names: tuple[str, ...]
    counts: ConfusionCounts  # int64 [S, F, n]
    tested: np.ndarray  # bool [S, F]

    @property
    def f1(self) -> np.ndarray:
        """F1 of each person [S]: mean over the AUs with a positive frame there, then over the folds; nan for none."""
        return nanmean(nanmean(self.counts.f1, axis=2), axis=1)


def index_subjects(predictions: Predictions) -> SubjectIndex:
    """Number the people in predictions."""
    names, person = np.unique(predictions.identity.astype(np.str_), return_inverse=True)
    tested = np.zeros((len(names), len(predictions.folds)), bool)
    tested[person, predictions.fold] = True
    return SubjectIndex(tuple(names.tolist()), person, tested)


def count_by_subject(predictions: Predictions, *, threshold: float) -> SubjectCounts:
    """TP, FP and FN of each person in each fold; an AU is predicted where its probability is at least `threshold`."""
    names, person, tested = index_subjects(predictions)
    cell = person * len(predictions.folds) + predictions.fold

    def sum_cells(mask: np.ndarray) -> np.ndarray:
        """Number of frames in a mask [N, n] by person and fold, [S, F, n]."""
        sums = np.zeros((tested.size, mask.shape[1]), np.int64)
        for number, column in enumerate(mask.T):
            sums[:, number] = np.bincount(cell[column], minlength=tested.size)
        return sums.reshape(*tested.shape, -1)

    predicted, positive, negative = predictions.probability >= threshold, predictions.au == 1, predictions.au == 0
    counts = ConfusionCounts(
        tp=sum_cells(predicted & positive), fp=sum_cells(predicted & negative), fn=sum_cells(~predicted & positive)
    )
    return SubjectCounts(names, counts, tested)


def score_subjects(predictions: Predictions, *, threshold: float) -> dict[str, float]:
    """F1 of each person in [0, 1]: mean over the AUs with a positive frame there, and over the folds that test them."""
    subjects = count_by_subject(predictions, threshold=threshold)
    return dict(zip(subjects.names, subjects.f1.tolist(), strict=True))


def find_frames(subjects: Collection[str], *, identity: np.ndarray) -> np.ndarray:
    """Numbers of the frames that show one of `subjects`; identity [N] is the person in each frame."""
    return np.flatnonzero(np.isin(identity, sorted(subjects)))


def count_positives(au: np.ndarray, *, identity: np.ndarray) -> dict[str, np.ndarray]:
    """Number of positive frames of each AU [n] by subject, which `data.folds` balances."""
    names, inverse = np.unique(identity, return_inverse=True)
    counts = np.zeros((len(names), au.shape[1]), np.int64)
    np.add.at(counts, inverse, au == 1)
    return {str(name): line for name, line in zip(names, counts, strict=True)}
