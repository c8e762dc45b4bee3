"""The F1 of one method, by AU and by fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from facscale.evaluate.f1 import ConfusionCounts, nanmean

PUBLISHED = ("published",)  # the folds of scores that a paper prints

RowProtocol = Literal[
    "end-to-end", "linear-probe", "adapted-batchnorm"
]  # how a row of a table comes to its predictions
PROTOCOLS: dict[str, str] = {
    "end-to-end": "trained on the labels of each fold's training people",
    "linear-probe": "linear probe on the frozen encoder",
    "adapted-batchnorm": "linear probe on the encoder, which is frozen except for its BatchNorm layers",
}


@dataclass(frozen=True)
class MethodScores:
    """F1 in [0, 1] of one method; nan where it is undefined."""

    name: str
    aus: tuple[int, ...]
    by_fold: np.ndarray  # [folds, n]; one line if published
    pooled: np.ndarray  # [n], from the counts of all folds together; nan if published
    folds: tuple[str, ...]  # their names
    source: str = ""  # of the folds, or the paper
    seeds: int = 1  # number of trainings, whose folds stand one after the other
    protocol: str = ""  # one of PROTOCOLS, or "" if it was not recorded; if published, the paper's in its own words

    @classmethod
    def from_counts(
        cls,
        name: str,
        *,
        aus: Sequence[int],
        counts: ConfusionCounts,
        folds: Sequence[str],
        source: str = "",
        protocol: str = "",
    ) -> MethodScores:
        """Measured scores, from counts [folds, n]."""
        return cls(name, tuple(aus), counts.f1, counts.pool().f1, tuple(folds), source, protocol=protocol)

    @classmethod
    def from_paper(cls, name: str, *, f1: Mapping[int, float], source: str, protocol: str = "") -> MethodScores:
        """Published scores, {AU: F1 in per cent}."""
        values = np.array(list(f1.values()), float) / 100
        return cls(name, tuple(f1), values[None], np.full(len(values), np.nan), PUBLISHED, source, protocol=protocol)

    @classmethod
    def combine_seeds(cls, seeds: Sequence[MethodScores]) -> MethodScores:
        """One method trained with several seeds: all their folds, named "seed0 fold0", ...; pooled F1 is averaged."""
        first = seeds[0]
        if len(seeds) == 1:
            return first
        folds = tuple(f"seed{seed} {fold}" for seed, scores in enumerate(seeds) for fold in scores.folds)
        by_fold = np.concatenate([scores.by_fold for scores in seeds])
        pooled = nanmean(np.stack([scores.pooled for scores in seeds]), axis=0)
        return cls(first.name, first.aus, by_fold, pooled, folds, first.source, len(seeds), first.protocol)

    @property
    def is_published(self) -> bool:
        """Whether a paper prints them."""
        return self.folds == PUBLISHED

    @property
    def f1(self) -> np.ndarray:
        """Mean over the folds in which it is defined [n]."""
        return nanmean(self.by_fold, axis=0)

    @property
    def mean(self) -> float:
        """Mean of `f1` over AUs. With every F1 defined it equals the mean over folds of their means, as papers give it."""
        return float(nanmean(self.f1))

    @property
    def fold_means(self) -> np.ndarray:
        """Mean over AUs of each fold [folds]."""
        return nanmean(self.by_fold, axis=1)

    @property
    def undefined(self) -> tuple[str, ...]:
        """'AU9 in fold1' for each AU and fold without a positive frame."""
        if self.is_published:
            return ()
        gaps = zip(*np.nonzero(np.isnan(self.by_fold)), strict=True)
        return tuple(f"AU{self.aus[number]} in {self.folds[fold]}" for fold, number in gaps)

    def to_metrics(self) -> dict[str, float]:
        """Flat metrics for the tracker: f1/AU12, f1/mean, pooled/f1/AU12, fold0/f1/AU12, ...; undefined ones are left out."""
        metrics: dict[str, float] = {}
        lines = [("", self.f1), ("pooled/", self.pooled)]
        lines += [(f"{name}/", line) for name, line in zip(self.folds, self.by_fold, strict=True)]
        for prefix, line in lines:
            metrics |= {f"{prefix}f1/AU{au}": float(value) for au, value in zip(self.aus, line, strict=True)}
            metrics[f"{prefix}f1/mean"] = float(nanmean(line))
        return {name: value for name, value in metrics.items() if not np.isnan(value)}
