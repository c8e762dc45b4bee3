"""F1 at a fixed threshold, at one tuned on other people, and at the best one of the test fold: what a threshold is worth.

One and the same model changes its F1 by several points with the threshold, so a row that was tuned cannot stand beside
one that was not. "Cross-fitted" is tuned without the test fold: for each fold and AU the threshold with the best F1 over
the predictions of all people whom the fold does not test, so that no label of a tested person is counted when the
threshold is chosen. Two things are left: the models that made those predictions are those of other folds, which did learn
from the people tested here; and a threshold is carried from their outputs to another model's, as if all were on one scale.
"Cheating" is tuned on the very labels that it is tested on: a bound, no result. Areas under curves need no threshold.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.table import Table as RichTable

from facscale.evaluate.f1 import Counts, count, mean
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.subjects import people

FIGURES = {  # of `Operating`, with their headings
    "fixed": "F1 x 100 at {threshold:g}",
    "cross_fitted": "threshold from other people",
    "cheating": "cheating: from the test fold",
    "auc": "ROC AUC x 100",
    "average_precision": "average precision x 100",
}


class Curve(NamedTuple):
    """Decisions about one AU at every threshold that makes a difference, from the highest one down."""

    threshold: np.ndarray  # [K]: the distinct probabilities; an AU is found from it on
    tp: np.ndarray  # [K] int64
    fp: np.ndarray  # [K] int64

    @property
    def f1(self) -> np.ndarray:
        """[K], as `Counts` has it."""
        positives = self.tp[-1:].sum()  # none on an empty curve
        return Counts(self.tp, self.fp, positives - self.tp).f1

    @property
    def best(self) -> float:
        """The threshold with the largest F1, the highest of several; nan without a positive frame."""
        f1 = self.f1
        return float("nan") if np.isnan(f1).all() else float(self.threshold[np.nanargmax(f1)])

    @property
    def auc(self) -> float:
        """Area under the receiver operating characteristic; nan without frames of both kinds.

        How often a positive frame's probability is above a negative one's, ties counting half: Mann-Whitney's U / (P N).
        """
        tp, fp = (np.concatenate([[0], line]).astype(float) for line in (self.tp, self.fp))
        pairs = tp[-1] * fp[-1]
        return float((np.diff(fp) * (tp[1:] + tp[:-1])).sum() / 2 / pairs) if pairs else float("nan")

    @property
    def average_precision(self) -> float:
        """Sum of precision times the growth of recall, without interpolation; nan without a positive frame."""
        if not self.tp[-1:].sum():
            return float("nan")
        precision = self.tp / (self.tp + self.fp)
        return float((precision * np.diff(self.tp, prepend=0)).sum() / self.tp[-1])


def curve(probability: np.ndarray, au: np.ndarray) -> Curve:
    """Of probabilities [N] and labels [N] in {1, 0, -1}, those of -1 left out. Sorted once: N log N."""
    known = au >= 0
    order = np.argsort(-probability[known], kind="stable")
    return _curve(probability[known][order], au[known][order])


@dataclass(frozen=True)
class Operating:
    """One method; figures in [0, 1], each [folds, n] (those of several trainings below each other), nan if undefined."""

    name: str
    aus: tuple[int, ...]
    threshold: float  # the fixed one
    fixed: np.ndarray  # F1 at it
    cross_fitted: np.ndarray  # F1 at the threshold that other people's frames ask for; nan where there are none
    cheating: np.ndarray  # F1 at the threshold that suits the test fold's own labels best
    auc: np.ndarray  # area under the receiver operating characteristic
    average_precision: np.ndarray
    chosen: np.ndarray  # the cross-fitted thresholds

    def by_au(self, figure: str) -> np.ndarray:
        """Mean over the folds in which it is defined [n]."""
        return mean(getattr(self, figure), axis=0)


def operating(trainings: Sequence[Predictions], *, threshold: float) -> Operating:
    """Of a method that was trained once or with several seeds.

    Where nobody but the tested people is there (one fold, or a set that every fold tests whole), nothing is cross-fitted
    (nan); where the others show no positive frame of an AU, it is found from the fixed threshold on.
    """
    first = trainings[0]
    found = np.concatenate([_operating(one, threshold=threshold) for one in trainings], axis=1)
    return Operating(first.name, first.aus, threshold, *found)


@dataclass(frozen=True)
class Thresholds:
    """Methods below each other."""

    rows: tuple[Operating, ...]

    def rich(self, *, title: str) -> RichTable:
        """For the terminal."""
        caption = "cheating: the threshold has seen the labels that it is tested on; a bound, no result"
        table = RichTable(title=title, title_justify="left", caption=caption, caption_justify="left")
        table.add_column("", no_wrap=True)
        for heading in self._headings():
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(row.name, *_cells(row))
        return table

    def markdown(self) -> str:
        """For a README."""
        lines = [["method", *self._headings()], ["---"] * (len(FIGURES) + 1)]
        lines += [[row.name, *_cells(row)] for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """One line a method and figure, for each AU and their mean, unrounded, in [0, 1]; what is undefined is empty."""
        aus = tuple(dict.fromkeys(au for row in self.rows for au in row.aus))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "figure", *(f"AU{au}" for au in aus), "Avg"])
        for row in self.rows:
            for figure in (*FIGURES, "chosen"):
                values = dict(zip(row.aus, row.by_au(figure).tolist(), strict=True))
                cells = [*(values.get(au, np.nan) for au in aus), float(mean(row.by_au(figure)))]
                writer.writerow([row.name, figure, *("" if np.isnan(cell) else cell for cell in cells)])
        return out.getvalue()

    def _headings(self) -> list[str]:
        return [heading.format(threshold=self.rows[0].threshold) for heading in FIGURES.values()]


def _operating(predictions: Predictions, *, threshold: float) -> np.ndarray:
    """The arrays of `Operating` [6, folds, n], in their order."""
    _, person, tested = people(predictions)
    found = np.full((6, len(predictions.folds), len(predictions.aus)), np.nan)
    for number in range(len(predictions.aus)):
        order = np.argsort(-predictions.probability[:, number], kind="stable")
        order = order[predictions.au[order, number] >= 0]
        probability, au = predictions.probability[order, number], predictions.au[order, number]
        for fold in range(len(predictions.folds)):
            mine, others = predictions.fold[order] == fold, ~tested[person[order], fold]
            own, other = _curve(probability[mine], au[mine]), _curve(probability[others], au[others])
            chosen = _chosen(other, otherwise=threshold)
            f1 = [_f1(probability[mine], au[mine], threshold=value) for value in (threshold, chosen, own.best)]
            found[:, fold, number] = *f1, own.auc, own.average_precision, chosen
    return found


def _chosen(others: Curve, *, otherwise: float) -> float:
    """The best threshold on the others, `otherwise` where they show no positive frame; nan where nobody is there."""
    if not len(others.threshold):
        return float("nan")
    return otherwise if np.isnan(others.best) else others.best


def _f1(probability: np.ndarray, au: np.ndarray, *, threshold: float) -> float:
    if np.isnan(threshold):
        return float("nan")
    return float(count(probability=probability, au=au, threshold=threshold).f1)


def _curve(probability: np.ndarray, au: np.ndarray) -> Curve:
    """Of what is known, the highest probability first; frames with the same one are found together."""
    last = np.flatnonzero(np.append(probability[1:] != probability[:-1], [True]))[: len(probability)]
    positive = np.cumsum(au, dtype=np.int64)[last]
    return Curve(probability[last], positive, last + 1 - positive)


def _cells(row: Operating) -> list[str]:
    values = [100 * float(mean(row.by_au(figure))) for figure in FIGURES]
    return ["-" if np.isnan(value) else f"{value:.1f}" for value in values]
