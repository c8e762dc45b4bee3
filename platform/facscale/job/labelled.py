"""A labelled data set as the evaluation needs it: who is in it, with which labels, in which folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from facscale.data import DataError, Dataset
from facscale.data.folds import Fold, Split, folds
from facscale.data.labels import class_weights
from facscale.evaluate import frames_of, positives
from facscale.methods import DataFacts
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
    def open(cls, url: str, *, evaluate: Evaluate) -> Self:
        """Read the labels and make the folds. Raises DataError for a data set without labels, or with too few people."""
        dataset = Dataset(url)
        manifest = dataset.manifest
        if not manifest.au:
            raise DataError(f"{url} has no AU labels; it can be data.unlabelled, not data.labelled")
        table = dataset.table(["identity", "au"])
        identity = np.asarray(table["identity"].to_pylist())
        au = (
            table["au"]
            .combine_chunks()
            .flatten()
            .to_numpy(zero_copy_only=False)
            .reshape(len(identity), -1)
            .astype(np.int8)
        )
        people = sorted(set(identity))
        if len(people) < evaluate.folds:
            raise DataError(f"{url} has {len(people)} subjects, too few for evaluate.folds={evaluate.folds}")
        split = folds(people, k=evaluate.folds, seed=evaluate.seed, positives=positives(au, identity=identity))
        return cls(url, manifest.name, manifest.fingerprint, tuple(manifest.au), au, identity, split)

    def facts(self, fold: Fold | None = None) -> DataFacts:
        """What a method may know: of the training frames of `fold` alone, if one is given."""
        rows = frames_of(fold.train, identity=self.identity) if fold else np.arange(len(self.au))
        weights = class_weights(self.au[rows])
        return DataFacts(aus=self.aus, label_weights=tuple(tuple(map(float, line)) for line in weights))
