"""Subject-exclusive folds: no subject is in both the training and the test part of one fold.

BP4D and DISFA have published folds that all papers share (they agree between JAA-Net, ME-GraphAU, AUNet, FG-Net and
AUNCE; only their numbering differs, here it is JAA-Net's). Any other data set is split by seed.
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

# Measured on 41 subjects with skewed counts: two jittered splits share about as many pairs as chance gives (0.35 and
# 0.32), and are nearly as even as the greedy split (deviation of a fold's share 0.039; greedy 0.035, chance 0.095).
TEST_ONLY = "all"  # name of the fold that tests everybody
JITTER = 0.3
ATTEMPTS = 50  # per new split: a few subjects have only a few different splits


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation: its training and test subjects."""

    index: int
    name: str
    train: frozenset[str]
    test: frozenset[str]


def subsample(subjects: Collection[str], *, count: int, seed: int) -> frozenset[str]:
    """Choose `count` subjects at random (0: all); a smaller subsample is contained in every larger one."""
    return frozenset(_shuffle(subjects, seed=seed)[: count or None])


def partition(subjects: Collection[str], *, validation: float, test: float, seed: int) -> dict[str, frozenset[str]]:
    """Assign subjects at random to "train", "validation" and "test", by the shares of the latter two.

    Raises DataError where a part with a share would be empty, or no subject would be left to train on.
    """
    order = _shuffle(subjects, seed=seed)
    first, second = round(test * len(order)), round((test + validation) * len(order))
    parts = {"test": order[:first], "validation": order[first:second], "train": order[second:]}
    for name, share in (("test", test), ("validation", validation), ("train", 1.0)):
        if share and not parts[name]:
            raise DataError(
                f"{len(order)} subjects are too few for data.validation={validation:g} and data.test={test:g}"
            )
    return {name: frozenset(members) for name, members in parts.items()}


@dataclass(frozen=True)
class Split:
    """All folds of a cross-validation. Every subject is tested exactly once; in concatenated splits, once in each."""

    folds: tuple[Fold, ...]
    source: str  # the origin of the folds, as text for the model card

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.folds)

    def __len__(self) -> int:
        return len(self.folds)

    def __getitem__(self, index: int) -> Fold:
        return self.folds[index]

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify which subjects are tested in which fold."""
        text = json.dumps([sorted(fold.test) for fold in self.folds])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_folds(
    subjects: Collection[str],
    *,
    k: int = 3,
    seed: int,
    positives: Mapping[str, Sequence[float] | np.ndarray] | None = None,
) -> Split:
    """Split subjects into k folds; neither their order nor repetitions matter.

    Returns BP4D's or DISFA's published folds where every subject is one of theirs, k is 3 and no fold is left empty.
    Otherwise splits by `seed`: folds of equal size (to one subject), with `positives` (for each subject, its positive
    frames of each AU) distributed over the folds as evenly as a greedy assignment can. Raises DataError for k < 2 or
    fewer subjects than folds.
    """
    unique = sorted(set(subjects))
    if k < 2 or len(unique) < k:
        raise DataError(
            f"{len(unique)} subjects cannot be split into {k} folds: at least 2 folds and one test subject per fold "
            "are needed"
        )
    for name, published in PUBLISHED.items():
        tests = [frozenset(part) & frozenset(unique) for part in published]
        if k == len(published) and all(tests) and sum(map(len, tests)) == len(unique):
            total = sum(map(len, published))
            subset = "" if len(unique) == total else f", {len(unique)} of {total} subjects"
            return _build_split(tests, source=f"{name}'s published parts{subset}")
    tests = _balance(unique, k=k, seed=seed, positives=positives or {})
    return _build_split(tests, source=f"drawn with seed {seed}")


def make_repeated_folds(
    subjects: Collection[str],
    *,
    repeats: int,
    k: int = 3,
    seed: int,
    positives: Mapping[str, Sequence[float] | np.ndarray] | None = None,
) -> tuple[Split, ...]:
    """Make `repeats` different splits into k folds: first the one of `make_folds`, then splits by further seeds.

    Fewer repeats are a prefix of more. No two splits group the subjects in the same way, and positives are nearly as
    evenly distributed in all of them as in the first. Raises DataError as `make_folds` does, and where there are fewer
    than `repeats` different splits.
    """
    splits = [make_folds(subjects, k=k, seed=seed, positives=positives)]
    seen = {frozenset(fold.test for fold in splits[0])}
    unique = sorted(set(subjects))
    for number in range(seed + 1, seed + 1 + ATTEMPTS * repeats):
        if len(splits) >= repeats:
            break
        tests = _balance(unique, k=k, seed=number, positives=positives or {}, jitter=JITTER)
        if frozenset(tests) not in seen:
            seen.add(frozenset(tests))
            splits.append(_build_split(tests, source=f"drawn anew with seed {number}"))
    if len(splits) < repeats:
        raise DataError(
            f"{len(unique)} subjects give only {len(splits)} different splits into {k} folds, not {repeats}"
        )
    return tuple(splits)


def concat_splits(splits: Sequence[Split]) -> Split:
    """Concatenate splits of the same subjects; each split tests each subject once. Folds are "split0 fold0", ..."""
    if len(splits) == 1:
        return splits[0]
    named = [(f"split{number} {fold.name}", fold) for number, split in enumerate(splits) for fold in split]
    folds = (Fold(index, name, fold.train, fold.test) for index, (name, fold) in enumerate(named))
    return Split(tuple(folds), source="; ".join(split.source for split in splits))


def make_test_only_split(subjects: Collection[str]) -> Split:
    """Make a single fold that tests all subjects and trains on none."""
    return Split((Fold(0, TEST_ONLY, frozenset(), frozenset(subjects)),), source="everybody, and nobody is trained on")


def make_official_split(people_by_part: Mapping[str, Collection[str]]) -> Split | None:
    """Make the single fold that the authors of a data set published: train on "train", test on "test".

    Without people in "test", as in challenges that keep it secret, "validation" is tested; otherwise the people in
    "validation" are left out. None where nobody is trained on or tested. Raises DataError for a person who is in both.
    """
    parts = {name: frozenset(people) for name, people in people_by_part.items() if people}
    tested = "test" if "test" in parts else "validation"
    if "train" not in parts or tested not in parts:
        return None
    train, test = parts["train"], parts[tested]
    if shared := sorted(train & test):
        raise DataError(
            f"{len(shared)} people are in the parts train and {tested} of the official split, such as {shared[0]}; set "
            "evaluate.official_split=false for folds in which nobody is in both"
        )
    source = f"the official split, tested on its part {tested}"
    return Split((Fold(0, "official", train, test),), source=source)


def _shuffle(subjects: Collection[str], *, seed: int) -> list[str]:
    """Shuffle so that the relative order of two subjects does not depend on which others there are."""
    return sorted(subjects, key=lambda subject: hashlib.sha256(f"{seed}/{subject}".encode()).digest())


def _build_split(tests: Sequence[frozenset[str]], *, source: str) -> Split:
    everyone = frozenset().union(*tests)
    folds = (Fold(index, f"fold{index}", everyone - test, test) for index, test in enumerate(tests))
    return Split(tuple(folds), source)


def _balance(
    subjects: Sequence[str],
    *,
    k: int,
    seed: int,
    positives: Mapping[str, Sequence[float] | np.ndarray],
    jitter: float = 0.0,
) -> list[frozenset[str]]:
    """Assign subjects greedily: the largest share of any AU first, each to the fold that has least of that subject's AUs.

    Where no two shares are equal, the result is the same for every seed; `jitter`, the standard deviation of the
    logarithm of a random factor on the shares, makes it vary.
    """
    shares = _compute_shares(subjects, positives)
    random = np.random.default_rng(seed)
    order = random.permutation(len(subjects))
    largest = shares[order].max(axis=1, initial=0) * np.exp(jitter * random.normal(size=len(subjects)))
    order = order[np.argsort(-largest, kind="stable")]
    held = np.zeros((k, shares.shape[1]))
    tests: list[list[str]] = [[] for _ in range(k)]
    for number in order:
        sizes = [len(test) for test in tests]
        is_full = _find_full_folds(sizes, total=len(subjects))
        # Growth of the sum over AUs of (share held by the fold)^2; ties go to the smaller fold.
        growth = ((held + shares[number]) ** 2 - held**2).sum(axis=1)
        candidates = (index for index in range(k) if not is_full[index])
        best = min(candidates, key=lambda index: (round(growth[index], 12), sizes[index]))
        tests[best].append(subjects[number])
        held[best] += shares[number]
    return [frozenset(test) for test in tests]


def _compute_shares(subjects: Sequence[str], positives: Mapping[str, Sequence[float] | np.ndarray]) -> np.ndarray:
    """Compute each subject's share of all positive frames of each AU [subjects, n], which weighs all AUs equally."""
    width = max((len(row) for row in positives.values()), default=0)
    counts = np.array([positives.get(subject, [0.0] * width) for subject in subjects], float)
    counts = counts.reshape(len(subjects), width)
    shares: np.ndarray = counts / np.maximum(counts.sum(axis=0), 1)
    return shares


def _find_full_folds(sizes: Sequence[int], *, total: int) -> list[bool]:
    """Return whether each fold is full, given that the final sizes may differ by one at most."""
    least, larger = divmod(total, len(sizes))
    has_room = sum(size > least for size in sizes) < larger  # for one more fold of the larger size
    return [size > least or (size == least and not has_room) for size in sizes]
