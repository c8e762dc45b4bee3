"""The F1 of one method: by AU and by fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facscale.evaluate.f1 import Counts, mean


@dataclass(frozen=True)
class Row:
    """One method. F1 lies in [0, 1] here and is shown times 100; nan where it is undefined."""

    name: str
    aus: tuple[int, ...]
    by_fold: np.ndarray  # [folds, n]; one line for a published row
    pooled: np.ndarray  # [n], from the counts of all folds together; nan where a paper gives none
    folds: tuple[str, ...]  # their names
    source: str = ""  # of the folds, or the paper
    seeds: int = 1  # trainings, whose folds stand one after the other

    @classmethod
    def counted(cls, name: str, *, aus: Sequence[int], counts: Counts, folds: Sequence[str], source: str = "") -> Row:
        """A measured row, from the counts [folds, n]."""
        return cls(name, tuple(aus), counts.f1, counts.pooled().f1, tuple(folds), source)

    @classmethod
    def published(cls, name: str, *, f1: Mapping[int, float], source: str) -> Row:
        """A row of a paper, F1 in per cent by AU."""
        values = np.array(list(f1.values()), float) / 100
        return cls(name, tuple(f1), values[None], np.full(len(values), np.nan), ("published",), source)

    @classmethod
    def repeated(cls, rows: Sequence[Row]) -> Row:
        """The same method trained with several seeds, as one row."""
        if len(rows) == 1:
            return rows[0]
        folds = tuple(f"seed{seed} {fold}" for seed, row in enumerate(rows) for fold in row.folds)
        by_fold, pooled = (
            np.concatenate([row.by_fold for row in rows]),
            mean(np.stack([row.pooled for row in rows]), axis=0),
        )
        return cls(rows[0].name, rows[0].aus, by_fold, pooled, folds, rows[0].source, len(rows))

    @property
    def f1(self) -> np.ndarray:
        """Mean over the folds in which it is defined [n]."""
        return mean(self.by_fold, axis=0)

    @property
    def mean(self) -> float:
        """Mean of `f1` over AUs; with every F1 defined, also the mean over folds of their means, as papers give it."""
        return float(mean(self.f1))

    @property
    def fold_means(self) -> np.ndarray:
        """Mean over AUs of each fold [folds]."""
        return mean(self.by_fold, axis=1)

    @property
    def undefined(self) -> tuple[str, ...]:
        """'AU9 in fold1': no positive frame to be found there."""
        if self.folds == ("published",):
            return ()
        gaps = zip(*np.nonzero(np.isnan(self.by_fold)), strict=True)
        return tuple(f"AU{self.aus[number]} in {self.folds[fold]}" for fold, number in gaps)

    def metrics(self) -> dict[str, float]:
        """Flat, for the tracker: f1/AU12, f1/mean, pooled/f1/AU12, fold0/f1/AU12, ... undefined ones left out."""
        found: dict[str, float] = {}
        lines = [("", self.f1), ("pooled/", self.pooled)]
        lines += [(f"{name}/", line) for name, line in zip(self.folds, self.by_fold, strict=True)]
        for prefix, line in lines:
            found |= {f"{prefix}f1/AU{au}": float(value) for au, value in zip(self.aus, line, strict=True)}
            found[f"{prefix}f1/mean"] = float(mean(line))
        return {name: value for name, value in found.items() if not np.isnan(value)}
