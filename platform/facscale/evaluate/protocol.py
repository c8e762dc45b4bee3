"""The protocol of subject-exclusive cross-validation: labelled data sets, who is trained on, and who is tested."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from facscale.data import DataError, Dataset
from facscale.data.folds import (
    Split,
    concat_splits,
    make_official_split,
    make_repeated_folds,
    make_test_only_split,
    subsample,
)
from facscale.data.labels import (
    compute_au_weights,
    compute_class_weights,
    load_labels,
    load_parts,
    reindex_labels,
    union_aus,
)
from facscale.evaluate.subjects import count_positives, find_frames
from facscale.methods import DataFacts
from facscale.spec import Job
from facscale.spec.models import Evaluate


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """N frames with labels of n AUs, and the folds of their people."""

    url: str
    name: str
    fingerprint: str
    aus: tuple[int, ...]
    au: np.ndarray  # [N, n] int8: 1, 0, or -1 for not labelled
    identity: np.ndarray  # [N] str
    split: Split

    @classmethod
    def open(cls, url: str, *, evaluate: Evaluate, test_only: bool = False) -> Self:
        """Read the labels and make the folds; `test_only`: a single fold, which tests everybody.

        Raises DataError for a data set without labels, or with too few people.
        """
        dataset = Dataset(url)
        manifest = dataset.manifest
        if not manifest.au:
            place = "tested under evaluate.expressions" if manifest.expressions else "data.unlabelled"
            raise DataError(f"{url} has no AU labels; it can be {place}, not data.labelled")
        identity, au = load_labels(dataset)
        if test_only:
            split = make_test_only_split(sorted(set(identity)))
        else:
            split = make_split(dataset, identity=identity, au=au, evaluate=evaluate)
        return cls(dataset.url, manifest.name, manifest.fingerprint, tuple(manifest.au), au, identity, split)

    def as_test_only(self) -> Self:
        """The same data set with a single fold, which tests everybody: for models that have not learned from it."""
        return replace(self, split=make_test_only_split(sorted(set(self.identity))))


def make_split(dataset: Dataset, *, identity: np.ndarray, au: np.ndarray, evaluate: Evaluate) -> Split:
    """Return the folds of a data set with `identity` [N] and `au` [N, n]: its official split, else k folds of its people.

    Raises DataError for too few people, and for `evaluate.repeats` of an official split.
    """
    if evaluate.official_split and (official := find_official_split(dataset, identity=identity, au=au)):
        if evaluate.repeats > 1:
            raise DataError(
                f"{dataset.url} has an official split, of which there is only one, and evaluate.repeats is "
                f"{evaluate.repeats}; set evaluate.official_split=false for folds that are drawn"
            )
        return official
    people = sorted(set(identity))
    if len(people) < evaluate.folds:
        raise DataError(f"{dataset.url} has {len(people)} subjects, too few for evaluate.folds={evaluate.folds}")
    positives = count_positives(au, identity=identity)
    options = {"repeats": evaluate.repeats, "k": evaluate.folds, "seed": evaluate.seed}
    return concat_splits(make_repeated_folds(people, **options, positives=positives))


def find_official_split(dataset: Dataset, *, identity: np.ndarray, au: np.ndarray) -> Split | None:
    """Return the split that is stored with a data set, of its people with labels; None where there is none.

    Raises DataError, naming the data set, for a person in two parts.
    """
    parts = load_parts(dataset)
    if parts is None:
        return None
    is_labelled = (au >= 0).any(axis=1)
    people = {str(part): set(identity[is_labelled & (parts == part)].tolist()) for part in np.unique(parts)}
    try:
        return make_official_split(people)
    except DataError as error:
        raise DataError(f"{dataset.url}: {error}") from None


@dataclass(frozen=True, eq=False)
class TrainTestGroup:
    """Labelled sets that a model learns from together, fold by fold, and the sets on which it is tested."""

    sets: tuple[LabelledDataset, ...]
    transfer: tuple[LabelledDataset, ...] = ()  # tested as well, never learned from
    tests_own: bool = True  # whether `sets` are tested too, on the people of each fold that are not learned from

    @property
    def name(self) -> str:
        """As in "BP4D + DISFA"."""
        return " + ".join(dataset.name for dataset in self.sets)

    @property
    def aus(self) -> tuple[int, ...]:
        """All AUs that are learned, those of the first set first."""
        return union_aus(dataset.aus for dataset in self.sets)

    @property
    def folds(self) -> range:
        """Numbers of the folds; each set has the same number of folds."""
        return range(len(self.sets[0].split))

    def fold_name(self, fold: int) -> str:
        """As in "fold0"; in repeated cross-validation "split1 fold0"."""
        return self.sets[0].split[fold].name

    def table_title(self, dataset: LabelledDataset) -> str:
        """Title of the F1 table of a tested set: its name, and what was learned from where that is another set."""
        is_own = any(dataset is learned for learned in self.sets)
        return dataset.name if is_own else f"{dataset.name}, learned on {self.name}"

    def test_parts(self, fold: int) -> list[tuple[LabelledDataset, Collection[str]]]:
        """The people whom a fold tests, by data set."""
        own: list[tuple[LabelledDataset, Collection[str]]] = [
            (dataset, dataset.split[fold].test) for dataset in self.sets
        ]
        return own * self.tests_own + [(dataset, dataset.split[0].test) for dataset in self.transfer]


def build_groups(
    job: Job, sets: Sequence[LabelledDataset], *, transfer: Sequence[LabelledDataset] = ()
) -> list[TrainTestGroup]:
    """Group the labelled sets of a job: each on its own, or all together with `data.joint`.

    With `evaluate.cross_dataset` each set is also tested on the others, or all sets but one are learned from together and
    tested on that one.
    """
    mode = job.evaluate.cross_dataset
    parts: list[Sequence[LabelledDataset]] = [[dataset] for dataset in sets]
    if mode == "leave-one-out":
        parts = [[other for other in sets if other is not dataset] for dataset in sets]
    elif job.data.joint:
        parts = [sets] if sets else []
    groups = []
    for part in parts:
        _check_equal_folds(part)
        left_out = [dataset for dataset in sets if all(dataset is not learned for learned in part)] if mode else []
        others = [dataset.as_test_only() for dataset in left_out if shares_aus(dataset, part)]
        groups.append(TrainTestGroup(tuple(part), (*others, *transfer), tests_own=mode != "leave-one-out"))
    return groups


def _check_equal_folds(sets: Sequence[LabelledDataset]) -> None:
    """Raise DataError for sets that are learned from together and have different numbers of folds."""
    if len({len(dataset.split) for dataset in sets}) > 1:
        folds = ", ".join(f"{dataset.name} {len(dataset.split)}" for dataset in sets)
        raise DataError(
            f"data sets that are learned from together need the same number of folds (here: {folds}); set "
            "evaluate.official_split=false, and all have evaluate.folds"
        )


def shares_aus(dataset: LabelledDataset, others: Sequence[LabelledDataset]) -> bool:
    """Whether `dataset` has an AU that one of the others has too."""
    return any(set(dataset.aus) & set(other.aus) for other in others)


def open_transfer_sets(job: Job, *, sets: Sequence[LabelledDataset]) -> list[LabelledDataset]:
    """The sets of `evaluate.transfer`. Raises DataError for one that is learned from, or shares no AU with `sets`."""
    transfer = [LabelledDataset.open(url, evaluate=job.evaluate, test_only=True) for url in job.evaluate.transfer]
    for dataset in transfer:
        if dataset.url in {other.url for other in sets}:
            raise DataError(
                f"{dataset.url} is under data.labelled and under evaluate.transfer; nothing may learn from the latter"
            )
        if not shares_aus(dataset, sets):
            raise DataError(
                f"{dataset.url} (evaluate.transfer) has no AU in common with data.labelled, so nothing can be tested"
            )
    return transfer


class TrainingSplit(NamedTuple):
    """What a training may learn from: people of some data sets, and facts about their labels."""

    subjects: dict[str, Collection[str]]  # by data set URL
    facts: DataFacts


def select_training_split(
    sets: Sequence[LabelledDataset], *, fold: int | None = None, evaluate: Evaluate
) -> TrainingSplit:
    """Select the training people of a fold in each set (`evaluate.subjects` of them); without `fold`, everybody."""
    subjects: dict[str, Collection[str]] = {}
    for dataset in sets:
        people = frozenset(dataset.identity) if fold is None else dataset.split[fold].train
        subjects[dataset.url] = (
            people if fold is None else subsample(people, count=evaluate.subjects, seed=evaluate.seed)
        )
    aus = union_aus(dataset.aus for dataset in sets)
    labels = [
        reindex_labels(
            dataset.au[find_frames(subjects[dataset.url], identity=dataset.identity)], given=dataset.aus, wanted=aus
        )
        for dataset in sets
    ]
    au = np.concatenate(labels)
    facts = DataFacts(
        aus=aus,
        label_weights=tuple(tuple(map(float, weights)) for weights in compute_class_weights(au)),
        au_weights=tuple(map(float, compute_au_weights(au))),
        sets=tuple(dataset.aus for dataset in sets),
    )
    return TrainingSplit(subjects, facts)
