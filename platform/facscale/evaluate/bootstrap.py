"""Bootstrap confidence intervals of differences in F1, over subjects and seeds.

The people of each fold are drawn with replacement, with all of their frames, and the same people for all methods that are
compared. Where a method was trained with several seeds, the trainings are drawn too, for each method separately. A person
whom several folds test (repeated splits, or a data set that nothing is trained on) is drawn once, among the people whom the
same fold tests first, and counts in all folds. F1 of a draw is computed as in the table (`f1`): pooled over the frames of a
fold, mean over the folds, mean over AUs; an AU without a positive frame in a drawn fold is left out there.

One person, or training, fewer is drawn than there are: the mean of n drawn from n varies too little, by n / (n - 1)
(McCarthy and Snowden, "The bootstrap and finite population sampling", 1985). The bounds are the percentiles at which
Student's t stands on the normal distribution (as in Hesterberg, "What teachers should know about the bootstrap", The
American Statistician 2015), shifted by the draws' own bias, since F1 of fewer different people is lower.

Simulations with people who differ in base rates and errors as BP4D's and DISFA's do. How many of the 95 % intervals contain
the mean over as many other people:

    people  data sets  condition                                     difference
    41      1,500      three folds                                   94.4 %
    27      500        three folds                                   93.2 %
    27      600        1 AU and fold in 8 without positive frames    94.3 %
    41, 27             plain percentiles instead                     93.5, 92.2
    41, 27             BCa instead                                   90.7, 85.3
    41, 27             three seeds that vary by themselves           92.3, 96.2
    41, 27             five splits                                   93.7, 91.3

Leaving out undefined F1 moves the draws' mean difference by 0.1 of 2 points. BCa mistakes the bias of the draws for the skew
that it corrects.

An interval does not cover the luck of a training that was done once, nor how far F1 of so few people is from that of all
people (in the simulations 1 point below with 41 people, 4 to 5 with 27, for all methods alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facscale.evaluate.f1 import ConfusionCounts, nanmean
from facscale.evaluate.predictions import Predictions, align_predictions
from facscale.evaluate.subjects import SubjectCounts, count_by_subject

RESAMPLES = 10_000
BATCH = 1000  # draws per matrix product: ten repeats of three folds fit into 100 MB


class Interval(NamedTuple):
    """A difference of F1 with its confidence bounds; nan where they are undefined."""

    value: float
    low: float
    high: float

    def format(self, *, sign: str = "") -> str:
        """'1.2 [0.3, 2.1]', times 100; sign="+" puts a sign before a positive value too. What is undefined says so."""
        if np.isnan(self.value):
            return "undefined"
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{100 * self.value:{sign}z.1f}, without an interval"
        return f"{100 * self.value:{sign}z.1f} [{100 * self.low:z.1f}, {100 * self.high:z.1f}]"


@dataclass(frozen=True)
class F1Difference:
    """F1 of b minus that of a, in [-1, 1]."""

    a: str
    b: str
    f1: Interval  # of the mean F1
    by_au: dict[int, Interval]
    subjects: int
    seeds: tuple[int, int]  # number of trainings of a and of b
    level: float
    resamples: int

    @property
    def is_significant(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.f1.low > 0 or self.f1.high < 0

    @property
    def verdict(self) -> str:
        """One sentence: which method is better and by how much, F1 x 100."""
        if np.isnan(self.f1.value):
            return f"nothing can be said with these {self.subjects} subjects: F1 of {self.b} or {self.a} is undefined"
        if not self.is_significant:
            difference = f"{self.b} - {self.a} = {self.f1.format(sign='+')}"
            return f"not distinguishable with these {self.subjects} subjects: {difference}"
        if self.f1.value > 0:
            return f"{self.b} is better than {self.a} by {self.f1.format()}"
        value, low, high = self.f1
        return f"{self.b} is worse than {self.a} by {Interval(-value, -high, -low).format()}"


def bootstrap_difference(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    threshold: float,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> F1Difference:
    """F1 of b minus that of a, each trained once or with several seeds, over the frames that all trainings were tested on.

    Raises ValueError where the AUs or the labels differ.
    """
    counts = _count_aligned([*a, *b], threshold=threshold)
    random = np.random.default_rng(seed)
    people = draw_subjects(counts[0].tested, resamples=resamples, random=random)
    f1_a, f1_b = (
        resample_f1(side, people=people, trainings=draw_trainings(len(side), resamples=resamples, random=random))
        for side in (counts[: len(a)], counts[len(a) :])
    )
    mean, *by_au = compute_intervals(f1_b - f1_a, level=level, freedom=count_degrees_of_freedom(counts[0].tested))
    return F1Difference(
        a=a[0].name,
        b=b[0].name,
        f1=mean,
        by_au=dict(zip(a[0].aus, by_au, strict=True)),
        subjects=len(counts[0].names),
        seeds=(len(a), len(b)),
        level=level,
        resamples=resamples,
    )


def draw_subjects(tested: np.ndarray, *, resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each of S people counts in each draw [1 + resamples, S]; once each in the first line.

    tested [S, F]: whether a fold tests a person.
    """
    weights = np.ones((1 + resamples, len(tested)))
    first_fold = tested.argmax(axis=1)
    for fold in np.unique(first_fold):
        people = np.flatnonzero(first_fold == fold)
        weights[1:, people] = _draw_counts(len(people), resamples=resamples, random=random)
    return weights


def draw_trainings(number: int, *, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Weight of each of several trainings in each draw [1 + resamples, number]; all the same in the first line."""
    counts = np.concatenate([np.ones((1, number)), _draw_counts(number, resamples=resamples, random=random)])
    return counts / counts.sum(axis=1, keepdims=True)


def resample_f1(counts: Sequence[SubjectCounts], *, people: np.ndarray, trainings: np.ndarray) -> np.ndarray:
    """F1 of one method in every draw [draws, 1 + n]: mean over AUs, then each AU; nan where no positive frame was drawn.

    counts: one for each of its trainings; people [draws, S] and trainings [draws, trainings]: how much each counts.
    """
    weighted = [
        trainings[:, number, None] * _weigh_f1(training.counts, people) for number, training in enumerate(counts)
    ]
    return np.sum(weighted, axis=0)


def count_degrees_of_freedom(tested: np.ndarray) -> int:
    """Number of people less one for each group that people are drawn from; tested [S, F] as in `draw_subjects`."""
    return len(tested) - len(np.unique(tested.argmax(axis=1)))


def _count_aligned(predictions: Sequence[Predictions], *, threshold: float) -> list[SubjectCounts]:
    """Counts over the frames that all predictions have. Raises ValueError where AUs or labels differ."""
    aligned = align_predictions(predictions)
    first = aligned[0]
    for other in aligned[1:]:
        if other.aus != first.aus:
            raise ValueError(f"{first.name} and {other.name} predict different AUs")
        if not np.array_equal(other.au, first.au):
            raise ValueError(
                f"{first.name} and {other.name} were tested with different labels, or a different number of times"
            )
    return [count_by_subject(item, threshold=threshold) for item in aligned]


def _draw_counts(number: int, *, resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each of `number` items is drawn [resamples, number]."""
    return random.multinomial(max(1, number - 1), np.full(number, 1 / number), size=resamples)


def _weigh_f1(counts: ConfusionCounts, people: np.ndarray) -> np.ndarray:
    """F1 of one training [draws, 1 + n] from counts [S, F, n]: one matrix product sums the people of a batch of draws."""
    subjects, *shape = counts.tp.shape
    flat = [array.reshape(subjects, -1).astype(float) for array in (counts.tp, counts.fp, counts.fn)]
    batches = []
    for start in range(0, len(people), BATCH):
        batch = people[start : start + BATCH]
        sums = ConfusionCounts(*((batch @ array).reshape(-1, *shape) for array in flat))
        by_au = nanmean(sums.f1, axis=1)
        batches.append(np.column_stack([nanmean(by_au, axis=1), by_au]))
    return np.concatenate(batches)


def compute_intervals(draws: np.ndarray, *, level: float, freedom: int) -> list[Interval]:
    """Intervals of the columns of [draws, columns], whose first line is the measured value; nan where no draw is defined."""
    from scipy.special import ndtr, stdtrit  # slow to import, and `check` needs none of it

    tail = float(ndtr(stdtrit(freedom, (1 - level) / 2))) if freedom else np.nan
    intervals = []
    for value, column in zip(draws[0].tolist(), draws[1:].T, strict=True):
        defined = column[~np.isnan(column)]
        bounds = np.quantile(defined, [tail, 1 - tail]) if freedom and len(defined) else np.full(2, np.nan)
        low, high = (bounds - (defined.mean() - value) if len(defined) else bounds).tolist()
        intervals.append(Interval(value, low, high))
    return intervals
