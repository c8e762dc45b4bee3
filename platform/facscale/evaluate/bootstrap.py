"""The noise floor under a claim: how far F1, and a difference in F1, would move with other people and other trainings.

The people of each fold are drawn anew with replacement, with all of their frames, the same ones for all that is compared;
where a method was trained with several seeds, these too, for each method by itself. A person whom several folds test
(repeated splits, a set that nothing is learned from) is drawn once and counts in all of them, among those whom the same
fold tests first. Every draw's F1 is counted as in the table (`f1`): pooled over the frames of a fold, mean over the folds,
mean over AUs; an AU without a positive frame in a drawn fold is left out there.

One person, or training, fewer is drawn than there are: the mean of n drawn from n varies too little, by n / (n - 1)
(McCarthy and Snowden, "The bootstrap and finite population sampling", 1985). The ends are the percentiles at which
Student's t stands on the normal distribution (as in Hesterberg, "What teachers should know about the bootstrap", The
American Statistician 2015), shifted by the draws' own bias, since F1 of fewer different people is lower.

Simulated, with people who differ in base rates and errors as BP4D's and DISFA's do, 95 % intervals hold the mean over
other people of as many in 94.4 % of 1,500 data sets with 41 people in three folds, 93.2 % of 500 with 27 (94.3 % of 600
where one AU and fold in eight has no positive frame: leaving it out moves the draws' mean difference by 0.1 of 2 points);
one method's F1 in 94.1, 93.4 and 95.0 %. Plain percentiles: 93.5 and 92.2 %, of one method 84.9 and 88.8 %; BCa, which
takes the bias for the skew that it corrects: 90.7 and 85.3 %, of one method 83.4 and 82.2 %. Three seeds with a luck of
their own: 92.3 and 96.2 %; five splits: 93.7 and 91.3 %.

What an interval does not know: the luck of a training that was done once, and how far F1 of so few people is from that of
all people (in the simulations, 1 point below with 41, 4 to 5 with 27, for all methods alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from facscale.evaluate.f1 import Counts, mean
from facscale.evaluate.predictions import Predictions, matched
from facscale.evaluate.subjects import SubjectCounts, subject_counts

RESAMPLES = 10_000
BATCH = 1000  # draws at once: ten repeats of three folds fit into 100 MB


class Interval(NamedTuple):
    """A figure and where it may lie: F1, or a difference of F1. nan where nothing is known."""

    value: float
    low: float
    high: float

    def shown(self, *, sign: str = "") -> str:
        """As in "1.2 [0.3, 2.1]", times 100; `sign`: "+" to have one before a positive value too."""
        return f"{100 * self.value:{sign}z.1f} [{100 * self.low:z.1f}, {100 * self.high:z.1f}]"


@dataclass(frozen=True)
class Difference:
    """F1 of b minus that of a, in [-1, 1]."""

    a: str
    b: str
    f1: Interval  # of the mean F1
    by_au: dict[int, Interval]
    subjects: int
    seeds: tuple[int, int]  # trainings of a and of b
    level: float
    resamples: int

    @property
    def told(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.f1.low > 0 or self.f1.high < 0

    @property
    def noise_floor(self) -> float:
        """Half the interval's width: about the smallest difference that these people could tell from none."""
        return (self.f1.high - self.f1.low) / 2

    def verdict(self) -> str:
        """In words, F1 x 100."""
        if not self.told:
            found = f"{self.b} - {self.a} = {self.f1.shown(sign='+')}"
            return f"not distinguishable with these {self.subjects} subjects: {found}"
        if self.f1.value > 0:
            return f"{self.b} is better than {self.a} by {self.f1.shown()}"
        value, low, high = self.f1
        return f"{self.b} is worse than {self.a} by {Interval(-value, -high, -low).shown()}"


def difference(
    a: Sequence[Predictions], b: Sequence[Predictions], *, threshold: float, level: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Difference:  # fmt: skip
    """F1 of b minus that of a, each trained once or with several seeds, over the frames that all were tested on.

    Raises ValueError where the AUs or the labels are not the same.
    """
    counts = _counted([*a, *b], threshold=threshold)
    random = np.random.default_rng(seed)
    people = draw_people(counts[0].tested, resamples=resamples, random=random)
    one, other = (
        drawn_f1(side, people=people, trainings=draw_trainings(len(side), resamples=resamples, random=random))
        for side in (counts[: len(a)], counts[len(a) :])
    )
    whole, *by_au = _intervals(other - one, level=level, freedom=freedom(counts[0].tested))
    return Difference(
        a[0].name, b[0].name, whole, dict(zip(a[0].aus, by_au, strict=True)), subjects=len(counts[0].names),
        seeds=(len(a), len(b)), level=level, resamples=resamples,
    )  # fmt: skip


def interval(
    predictions: Sequence[Predictions], *, threshold: float, level: float = 0.95, resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:  # fmt: skip
    """Mean F1 of one method, trained once or with several seeds, and where that of as many other people may lie."""
    counts = _counted(predictions, threshold=threshold)
    random = np.random.default_rng(seed)
    people = draw_people(counts[0].tested, resamples=resamples, random=random)
    trainings = draw_trainings(len(counts), resamples=resamples, random=random)
    drawn = drawn_f1(counts, people=people, trainings=trainings)
    return _intervals(drawn, level=level, freedom=freedom(counts[0].tested))[0]


def draw_people(tested: np.ndarray, *, resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each person counts [1 + resamples, S], once each in the first line; tested [S, F]: whom a fold tests."""
    drawn = np.ones((1 + resamples, len(tested)))
    first = tested.argmax(axis=1)
    for fold in np.unique(first):
        mine = np.flatnonzero(first == fold)
        drawn[1:, mine] = _draws(len(mine), resamples=resamples, random=random)
    return drawn


def draw_trainings(number: int, *, resamples: int, random: np.random.Generator) -> np.ndarray:
    """How much each of several trainings weighs [1 + resamples, number], all the same in the first line."""
    drawn = np.concatenate([np.ones((1, number)), _draws(number, resamples=resamples, random=random)])
    return drawn / drawn.sum(axis=1, keepdims=True)


def drawn_f1(counts: Sequence[SubjectCounts], *, people: np.ndarray, trainings: np.ndarray) -> np.ndarray:
    """F1 of one method in every draw [draws, 1 + n]: mean over AUs, then each AU; nan where no positive frame was drawn.

    counts: one for each of its trainings; people [draws, S] and trainings [draws, trainings]: how often each counts.
    """
    weighed = [trainings[:, number, None] * _f1(one.counts, people) for number, one in enumerate(counts)]
    return np.sum(weighed, axis=0)


def freedom(tested: np.ndarray) -> int:
    """Degrees of freedom: people less one for each group that is drawn from."""
    return len(tested) - len(np.unique(tested.argmax(axis=1)))


def _counted(predictions: Sequence[Predictions], *, threshold: float) -> list[SubjectCounts]:
    """Of the frames that all have. Raises ValueError."""
    methods = matched(predictions)
    first = methods[0]
    for one in methods:
        if one.aus != first.aus:
            raise ValueError(f"{first.name} and {one.name} judge different AUs")
        if not np.array_equal(one.au, first.au):
            raise ValueError(
                f"{first.name} and {one.name} were tested with different labels, or a different number of times"
            )
    return [subject_counts(one, threshold=threshold) for one in methods]


def _draws(number: int, *, resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each of `number` is drawn [resamples, number]."""
    return random.multinomial(max(1, number - 1), np.full(number, 1 / number), size=resamples)


def _f1(counts: Counts, people: np.ndarray) -> np.ndarray:
    """Of one training [draws, 1 + n]: the counts of all people by one matrix product a batch of draws."""
    subjects, *shape = counts.tp.shape
    flat = [array.reshape(subjects, -1).astype(float) for array in (counts.tp, counts.fp, counts.fn)]
    found = []
    for start in range(0, len(people), BATCH):
        batch = people[start : start + BATCH]
        by_au = mean(Counts(*((batch @ array).reshape(-1, *shape) for array in flat)).f1, axis=1)
        found.append(np.column_stack([mean(by_au, axis=1), by_au]))
    return np.concatenate(found)


def _intervals(drawn: np.ndarray, *, level: float, freedom: int) -> list[Interval]:
    """Of each column of [draws, columns], whose first line is what was measured; nan where no draw says anything."""
    tail = float(ndtr(stdtrit(freedom, (1 - level) / 2))) if freedom else np.nan
    found = []
    for value, column in zip(drawn[0].tolist(), drawn[1:].T, strict=True):
        defined = column[~np.isnan(column)]
        ends = np.quantile(defined, [tail, 1 - tail]) if freedom and len(defined) else np.full(2, np.nan)
        low, high = (ends - (defined.mean() - value) if len(defined) else ends).tolist()
        found.append(Interval(value, low, high))
    return found
