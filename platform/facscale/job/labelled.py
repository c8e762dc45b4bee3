"""A labelled data set as the evaluation needs it: who is in it, with which labels, in which folds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from facscale.data import DataError, Dataset
from facscale.data.folds import Split, repeated_folds, some, together, untouched
from facscale.data.labels import class_weights, inverse_frequency, labels_of, spread, union
from facscale.evaluate import frames_of, positives
from facscale.methods import DataFacts
from facscale.spec import Job
from facscale.spec.models import Evaluate


@dataclass(frozen=True)
class Labelled:
    """N frames with n AUs, of which -1 are not labelled."""

    url: str
    name: str
    fingerprint: str
    aus: tuple[int, ...]
    au: np.ndarray  # [N, n] int8
    identity: np.ndarray  # [N] str
    split: Split

    @classmethod
    def open(cls, url: str, *, evaluate: Evaluate, whole: bool = False) -> Self:
        """Read the labels and make the folds; `whole`: one fold that tests everybody.

        Raises DataError for a data set without labels, or with too few people.
        """
        dataset = Dataset(url)
        manifest = dataset.manifest
        if not manifest.au:
            place = "tested under evaluate.expressions" if manifest.expressions else "data.unlabelled"
            raise DataError(f"{url} has no AU labels; it can be {place}, not data.labelled")
        identity, au = labels_of(dataset)
        people = sorted(set(identity))
        if whole:
            split = untouched(people)
        elif len(people) < evaluate.folds:
            raise DataError(f"{url} has {len(people)} subjects, too few for evaluate.folds={evaluate.folds}")
        else:
            balance = positives(au, identity=identity)
            options = {"repeats": evaluate.repeats, "k": evaluate.folds, "seed": evaluate.seed}
            split = together(repeated_folds(people, **options, positives=balance))
        return cls(dataset.url, manifest.name, manifest.fingerprint, tuple(manifest.au), au, identity, split)

    def whole(self) -> Self:
        """The same data set for those that nobody learns from: one fold, which tests everybody."""
        return replace(self, split=untouched(sorted(set(self.identity))))


@dataclass(frozen=True)
class Group:
    """Labelled sets that are learned from together, fold by fold, and the sets on which that is tested."""

    sets: tuple[Labelled, ...]
    transfer: tuple[Labelled, ...] = ()
    tests_own: bool = True  # whether its own sets are tested too, on the people of each fold that are not learned from

    @property
    def name(self) -> str:
        """As in "BP4D + DISFA"."""
        return " + ".join(data.name for data in self.sets)

    @property
    def aus(self) -> tuple[int, ...]:
        """All that is learned of, those of the first set first."""
        return union(data.aus for data in self.sets)

    @property
    def folds(self) -> range:
        """Numbers of the folds, which are as many in each set."""
        return range(len(self.sets[0].split))

    def titled(self, on: Labelled) -> str:
        """What a table of F1 on a set is called: the set, and what was learned from where that is another one."""
        return on.name if any(on is data for data in self.sets) else f"{on.name}, learned on {self.name}"

    def tests(self, fold: int) -> list[tuple[Labelled, Collection[str]]]:
        """Whom a fold tests, by set."""
        own: list[tuple[Labelled, Collection[str]]] = [(data, data.split[fold].test) for data in self.sets]
        return own * self.tests_own + [(data, data.split[0].test) for data in self.transfer]


def groups(job: Job, sets: Sequence[Labelled], *, transfer: Sequence[Labelled] = ()) -> list[Group]:
    """The sets of a job, each on its own, or all together where the spec mixes them; and what that is tested on.

    `evaluate.across`: also on each other, or all but one together on that one.
    """
    across = job.evaluate.across
    parts: list[Sequence[Labelled]] = [[data] for data in sets]
    if across == "leave-one-out":
        parts = [[other for other in sets if other is not data] for data in sets]
    elif job.data.mixed:
        parts = [sets] if sets else []
    found = []
    for part in parts:
        others = (
            [data for data in sets if all(data is not one for one in part) and common(data, part)] if across else []
        )
        everybody = tuple(other.whole() for other in others) + tuple(transfer)
        found.append(Group(tuple(part), everybody, tests_own=across != "leave-one-out"))
    return found


def common(data: Labelled, others: Sequence[Labelled]) -> bool:
    """Whether it has an AU that one of the others has."""
    return any(set(data.aus) & set(other.aus) for other in others)


def transferred(job: Job, *, sets: Sequence[Labelled]) -> list[Labelled]:
    """The sets of `evaluate.transfer`. Raises DataError for one that is learned from, or shares no AU with those that are."""
    found = [Labelled.open(url, evaluate=job.evaluate, whole=True) for url in job.evaluate.transfer]
    for data in found:
        if data.url in {other.url for other in sets}:
            raise DataError(
                f"{data.url} is under data.labelled and under evaluate.transfer; nothing may learn from the latter"
            )
        if not common(data, sets):
            raise DataError(
                f"{data.url} (evaluate.transfer) has no AU in common with data.labelled, so nothing can be tested"
            )
    return found


class Learned(NamedTuple):
    """What may be learned from: people of some data sets, and what a method may know of their labels."""

    subjects: dict[str, Collection[str]]  # by URL
    facts: DataFacts


def learned(sets: Sequence[Labelled], *, fold: int | None = None, evaluate: Evaluate) -> Learned:
    """The people that a fold trains on in each set (as many as the spec says); without `fold`, everybody."""
    chosen: dict[str, Collection[str]] = {}
    for data in sets:
        people = frozenset(data.identity) if fold is None else data.split[fold].train
        chosen[data.url] = people if fold is None else some(people, count=evaluate.subjects, seed=evaluate.seed)
    aus = union(data.aus for data in sets)
    labels = [
        spread(data.au[frames_of(chosen[data.url], identity=data.identity)], given=data.aus, wanted=aus)
        for data in sets
    ]
    au = np.concatenate(labels)
    facts = DataFacts(
        aus=aus,
        label_weights=tuple(tuple(map(float, line)) for line in class_weights(au)),
        au_weights=tuple(map(float, inverse_frequency(au))),
        sets=tuple(data.aus for data in sets),
    )
    return Learned(chosen, facts)
