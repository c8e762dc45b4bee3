"""Comparison of methods with a first one (AUNet, section V.E, Table XII): how much better they are, and how surely.

The difference in F1 has a confidence interval and a verdict (`bootstrap`); the paper's t-tests of the errors stand beside it
(`ttests`). Each method is compared with the first one separately, without a correction for multiple tests: of twenty that are
no better, one is significant by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from facscale.evaluate.bootstrap import F1Difference, bootstrap_difference
from facscale.evaluate.f1 import nanmean
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.relations import adjacency_distance, dependency_f1
from facscale.evaluate.ttests import TTest, paired_t_test


@dataclass(frozen=True)
class MethodComparison:
    """One method beside the first one, which itself has neither difference nor test."""

    name: str
    f1: float  # mean over folds and AUs
    distance: float  # `relations.adjacency_distance`
    dependency: float  # `relations.dependency_f1`
    difference: F1Difference | None = None  # its F1 minus the first one's
    test: TTest | None = None


@dataclass(frozen=True)
class Comparison:
    """Methods tested on the same frames. As in the paper, t is negative for one that errs less than the first."""

    rows: tuple[MethodComparison, ...]

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One sentence for each method but the first."""
        return tuple(row.difference.verdict for row in self.rows if row.difference)


def compare_methods(methods: Sequence[Sequence[Predictions]], *, threshold: float) -> Comparison:
    """Compare every method with the first one, [methods][seeds].

    F1 and its difference are over all seeds, everything else is of the first seed. Raises ValueError where the frames, the
    AUs or the labels differ.
    """
    first, *others = methods
    rows = [_summarize(first, threshold=threshold)]
    for method in others:
        test = paired_t_test(first[0], method[0])
        difference = bootstrap_difference(first, method, threshold=threshold)
        rows.append(replace(_summarize(method, threshold=threshold), difference=difference, test=test))
    return Comparison(tuple(rows))


def _summarize(seeds: Sequence[Predictions], *, threshold: float) -> MethodComparison:
    first = seeds[0]
    return MethodComparison(
        first.name,
        f1=float(nanmean(np.array([seed.score(threshold).mean for seed in seeds]))),
        distance=adjacency_distance(first, threshold=threshold),
        dependency=dependency_f1(first, threshold=threshold),
    )
