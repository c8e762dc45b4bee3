"""Subject-exclusive folds: nobody is in the training and in the test part of one fold.

BP4D and DISFA have parts that all papers share (the sets agree between JAA-Net, ME-GraphAU, AUNet, FG-Net and AUNCE;
only their numbering differs, here it is JAA-Net's). Any other data set is split by seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facscale.data.errors import DataError

# fmt: off
PUBLISHED: dict[str, tuple[tuple[str, ...], ...]] = {
    "BP4D": (
        ("F001", "F002", "F008", "F009", "F010", "F016", "F018",
         "F023", "M001", "M004", "M007", "M008", "M012", "M014"),
        ("F003", "F005", "F011", "F013", "F020", "F022", "M002",
         "M005", "M010", "M011", "M013", "M016", "M017", "M018"),
        ("F004", "F006", "F007", "F012", "F014", "F015", "F017",
         "F019", "F021", "M003", "M006", "M009", "M015"),
    ),
    "DISFA": (
        ("SN001", "SN002", "SN009", "SN010", "SN016", "SN026", "SN027", "SN030", "SN032"),
        ("SN006", "SN011", "SN012", "SN013", "SN018", "SN021", "SN024", "SN028", "SN031"),
        ("SN003", "SN004", "SN005", "SN007", "SN008", "SN017", "SN023", "SN025", "SN029"),
    ),
}
# fmt: on


# Of 41 people with skewed counts: two splits share as many pairs as by chance (0.35 and 0.32) and are nearly as even as
# the greedy choice (deviation of a fold's share 0.039; greedy 0.035, chance 0.095).
JITTER = 0.3
ATTEMPTS = 50  # at a new split: few people have few splits


@dataclass(frozen=True)
class Fold:
    """One turn of a cross-validation."""

    index: int
    name: str
    train: frozenset[str]
    test: frozenset[str]


def some(people: Collection[str], *, count: int, seed: int) -> frozenset[str]:
    """`count` of them at random; fewer are always among more. 0: all."""
    return frozenset(_order(people, seed=seed)[: count or None])


def parts(people: Collection[str], *, validation: float, test: float, seed: int) -> dict[str, frozenset[str]]:
    """People at random into "train", "validation" and "test", by the shares of the latter two.

    Raises DataError where a part with a share would be empty, or nobody would be left to train on.
    """
    order = _order(people, seed=seed)
    first, second = round(test * len(order)), round((test + validation) * len(order))
    found = {"test": order[:first], "validation": order[first:second], "train": order[second:]}
    for name, share in (("test", test), ("validation", validation), ("train", 1.0)):
        if share and not found[name]:
            raise DataError(
                f"{len(order)} people are too few for data.validation={validation:g} and data.test={test:g}"
            )
    return {name: frozenset(members) for name, members in found.items()}


@dataclass(frozen=True)
class Split:
    """All folds. Every subject is tested exactly once; in repeated splits (`together`) once in each."""

    folds: tuple[Fold, ...]
    source: str  # where the folds come from, in words for the model card

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.folds)

    def __len__(self) -> int:
        return len(self.folds)

    def __getitem__(self, index: int) -> Fold:
        return self.folds[index]

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name who is tested in which fold."""
        text = json.dumps([sorted(fold.test) for fold in self.folds])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def folds(
    subjects: Collection[str],
    *,
    k: int = 3,
    seed: int,
    positives: Mapping[str, Sequence[float] | np.ndarray] | None = None,
) -> Split:
    """Split subjects into k folds; neither their order nor repetitions matter.

    BP4D's or DISFA's published parts where every subject is one of theirs, k is 3 and no part is left empty.
    Otherwise a split by `seed`: folds of equal size (to one subject), with `positives` (for each subject, its positive
    frames of each AU) spread over the folds as evenly as a greedy choice can. Raises DataError for k < 2 or fewer
    subjects than folds.
    """
    people = sorted(set(subjects))
    if k < 2 or len(people) < k:
        raise DataError(
            f"{len(people)} subjects cannot be split into {k} folds: every fold needs 2 parts and a subject to test"
        )
    for name, published in PUBLISHED.items():
        tests = [frozenset(part) & frozenset(people) for part in published]
        if k == len(published) and all(tests) and sum(map(len, tests)) == len(people):
            everybody = sum(map(len, published))
            left_out = "" if len(people) == everybody else f", {len(people)} of {everybody} subjects"
            return _split(tests, source=f"{name}'s published parts{left_out}")
    return _split(_spread(people, k=k, seed=seed, positives=positives or {}), source=f"drawn with seed {seed}")


def repeated_folds(
    subjects: Collection[str],
    *,
    repeats: int,
    k: int = 3,
    seed: int,
    positives: Mapping[str, Sequence[float] | np.ndarray] | None = None,
) -> tuple[Split, ...]:
    """`repeats` different splits into k folds: what `folds` gives, published parts where there are some, then drawn ones.

    Further seeds draw them; fewer are always among more. No two put the same people together in every fold, and positives
    are nearly as even in all as in one of `folds`. Raises DataError as `folds` does, and where there are not as many.
    """
    found = [folds(subjects, k=k, seed=seed, positives=positives)]
    seen = {frozenset(fold.test for fold in found[0])}
    people = sorted(set(subjects))
    for number in range(seed + 1, seed + 1 + ATTEMPTS * repeats):
        if len(found) >= repeats:
            break
        tests = _spread(people, k=k, seed=number, positives=positives or {}, jitter=JITTER)
        if frozenset(tests) not in seen:
            seen.add(frozenset(tests))
            found.append(_split(tests, source=f"drawn anew with seed {number}"))
    if len(found) < repeats:
        raise DataError(f"{len(people)} subjects give only {len(found)} different splits into {k} folds, not {repeats}")
    return tuple(found)


def together(splits: Sequence[Split]) -> Split:
    """Several splits of the same people as one, in which each is tested once by each: folds "split0 fold0", ..."""
    if len(splits) == 1:
        return splits[0]
    turns = [(f"split{number} {fold.name}", fold) for number, split in enumerate(splits) for fold in split]
    named = (Fold(index, name, fold.train, fold.test) for index, (name, fold) in enumerate(turns))
    return Split(tuple(named), source="; ".join(split.source for split in splits))


def untouched(subjects: Collection[str]) -> Split:
    """Of people whom nothing is trained on: one fold that tests them all."""
    return Split((Fold(0, "all", frozenset(), frozenset(subjects)),), source="everybody, and nobody is trained on")


def _order(people: Collection[str], *, seed: int) -> list[str]:
    """At random, but two people follow each other in the same order whoever else is there."""
    return sorted(people, key=lambda person: hashlib.sha256(f"{seed}/{person}".encode()).digest())


def _split(tests: Sequence[frozenset[str]], *, source: str) -> Split:
    everyone = frozenset().union(*tests)
    turns = (Fold(index, f"fold{index}", everyone - test, test) for index, test in enumerate(tests))
    return Split(tuple(turns), source)


def _spread(
    people: Sequence[str],
    *,
    k: int,
    seed: int,
    positives: Mapping[str, Sequence[float] | np.ndarray],
    jitter: float = 0.0,
) -> list[frozenset[str]]:
    """Greedy: whoever holds the largest share of some AU goes first, each to the fold that has least of what they bring.

    Where no two shares are the same that is one split whatever the seed; `jitter`, the deviation of a normal factor's
    logarithm, makes many of it.
    """
    shares = _shares(people, positives)
    random = np.random.default_rng(seed)
    order = random.permutation(len(people))
    largest = shares[order].max(axis=1, initial=0) * np.exp(jitter * random.normal(size=len(people)))
    order = order[np.argsort(-largest, kind="stable")]
    held = np.zeros((k, shares.shape[1]))
    tests: list[list[str]] = [[] for _ in range(k)]
    for number in order:
        sizes = [len(test) for test in tests]
        full = _full(sizes, total=len(people))
        # (what the fold would hold)^2 summed over AUs, as growth over what it holds now; then the smaller fold
        growth = ((held + shares[number]) ** 2 - held**2).sum(axis=1)
        best = min(
            (index for index in range(k) if not full[index]), key=lambda index: (round(growth[index], 12), sizes[index])
        )
        tests[best].append(people[number])
        held[best] += shares[number]
    return [frozenset(test) for test in tests]


def _shares(people: Sequence[str], positives: Mapping[str, Sequence[float] | np.ndarray]) -> np.ndarray:
    """Each subject's share of all positive frames of each AU [subjects, n]: rare AUs count as much as common ones."""
    width = max((len(row) for row in positives.values()), default=0)
    counts = np.array([positives.get(person, [0.0] * width) for person in people], float).reshape(len(people), width)
    shares: np.ndarray = counts / np.maximum(counts.sum(axis=0), 1)
    return shares


def _full(sizes: Sequence[int], *, total: int) -> list[bool]:
    """Which folds may take nobody more, if sizes are to differ by one at most in the end."""
    least, larger = divmod(total, len(sizes))
    room_for_larger = sum(size > least for size in sizes) < larger
    return [size > least or (size == least and not room_for_larger) for size in sizes]
