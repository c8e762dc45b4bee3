"""Facial expressions from frozen features: a linear probe with softmax, tested on the published split.

CLP (Li & Shan), section IV.C.3, compares methods on RAF-DB and AffectNet (Tables V and VI) and does not say how the
classifier is trained. Taken over from its AU protocol (section IV.A): BatchNorm1d and a bias-free linear layer, and a
loss "reweighted ... inversely proportional to the class frequencies", so that each class weighs the same. The tables'
"Average" is the unweighted mean of the classes' accuracies (62.3 in Table V is the mean of its seven numbers), not the
share of images that are right; both are told here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from facscale.data import DataError, Dataset
from facscale.evaluate.f1 import mean
from facscale.nn.classifier import LinearProbe
from facscale.report.summary import Column, Summary
from facscale.spec.models import Probe


@dataclass(frozen=True)
class Expressions:
    """A data set of N faces with one expression each, of k classes."""

    url: str
    name: str
    fingerprint: str
    classes: tuple[str, ...]
    expression: np.ndarray  # [N] int8, number of the class; -1: none
    test: np.ndarray  # [N] bool, whether it is in the test part
    place: tuple[tuple[str, str, int], ...]  # identity, video and frame of each

    @classmethod
    def open(cls, url: str) -> Expressions:
        """Read the labels and the split. Raises DataError for a data set without expressions, or without a part."""
        dataset = Dataset(url)
        manifest = dataset.manifest
        if not manifest.expressions:
            raise DataError(
                f"{url} (evaluate.expressions) has no expressions; make it from a source that has some, such as RAF-DB "
                "(pipelines/rafdb.yaml)"
            )
        table = dataset.table(["identity", "video", "frame", "expression", "part"])
        expression, part = table["expression"].to_numpy(), np.asarray(table["part"].to_pylist())
        for name in ("train", "test"):
            if not (expression[part == name] >= 0).any():
                raise DataError(f"{url} (evaluate.expressions) has no face with an expression in its part {name!r}")
        place = zip(*(table[name].to_pylist() for name in ("identity", "video", "frame")), strict=True)
        return cls(
            dataset.url, manifest.name, manifest.fingerprint, manifest.expressions, expression, part == "test",
            tuple(place),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.expression)

    def rows(self, *, identity: np.ndarray, video: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Where the given faces [M] stand in here [M]: embeddings lack those that could not be read."""
        at = {place: row for row, place in enumerate(self.place)}
        return np.array([at[place] for place in zip(identity.tolist(), video.tolist(), frame.tolist(), strict=True)])


@dataclass(frozen=True)
class Confusion:
    """What a probe said of test faces."""

    classes: tuple[str, ...]
    counts: np.ndarray  # [k, k] int64: faces of the row's class that were taken for the column's

    @property
    def accuracy(self) -> float:
        """Share of the faces that are right, in [0, 1]."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def shares(self) -> np.ndarray:
        """The counts as shares of their row [k, k]; nan for a class without a face."""
        total = self.counts.sum(axis=1, keepdims=True)
        found: np.ndarray = np.divide(self.counts, total, out=np.full(self.counts.shape, np.nan), where=total > 0)
        return found

    @property
    def mean_class_accuracy(self) -> float:
        """Unweighted mean of the classes' accuracies: the papers' "Average"."""
        return float(mean(np.diag(self.shares)))

    def metrics(self) -> dict[str, float]:
        """Flat, in [0, 1]: accuracy, mean_class_accuracy and each class by its name; undefined ones left out."""
        found = {"accuracy": self.accuracy, "mean_class_accuracy": self.mean_class_accuracy}
        found |= dict(zip(self.classes, map(float, np.diag(self.shares)), strict=True))
        return {name: value for name, value in found.items() if not np.isnan(value)}

    def csv(self) -> str:
        """The counts: a line a true class, a column a class that was said."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["true", *self.classes])
        writer.writerows([name, *line] for name, line in zip(self.classes, self.counts.tolist(), strict=True))
        return out.getvalue()


def fit_expression_probe(
    features: np.ndarray, *, expression: np.ndarray, classes: int, probe: Probe, seed: int
) -> LinearProbe:
    """Train a probe on features [N, D] and classes [N] with Adam on shuffled minibatches; the same seed, the same probe.

    Cross-entropy, in which a face of class c weighs N / (k N_c): 1 on average. Faces without an expression (-1) are left
    out. Returns it in evaluation mode. Raises ValueError for fewer than 2 faces.
    """
    labelled = expression >= 0
    x = torch.from_numpy(features[labelled].astype(np.float32))
    y = torch.from_numpy(expression[labelled].astype(np.int64))
    if len(x) < 2:
        raise ValueError(f"a probe needs at least 2 faces with an expression, here are {len(x)}")
    number = torch.bincount(y, minlength=classes)
    weights = len(y) / ((number > 0).sum() * number.clamp(min=1)).float()
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # the process's own generator is left alone
        torch.manual_seed(seed)
        model = LinearProbe(dim=x.shape[1], aus=classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=probe.lr, weight_decay=probe.weight_decay)
    for _ in range(probe.epochs):
        for rows in torch.split(torch.randperm(len(x), generator=random), probe.batch_size):
            if len(rows) == 1:  # BatchNorm has no variance to divide by
                continue
            each = cross_entropy(model(x[rows]), y[rows], reduction="none")
            optimizer.zero_grad()
            (each * weights[y[rows]]).mean().backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def confusion(model: LinearProbe, *, features: np.ndarray, expression: np.ndarray, classes: Sequence[str]) -> Confusion:
    """Of test faces: features [N, D] and classes [N], of which -1 does not count."""
    labelled = expression >= 0
    said = model(torch.from_numpy(features[labelled].astype(np.float32))).argmax(dim=1).numpy()
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (expression[labelled].astype(int), said), 1)
    return Confusion(tuple(classes), counts)


def table(rows: Mapping[str, Sequence[Confusion]]) -> Summary:
    """Accuracies x 100 by class, their mean and over all, {method: one for each of its seeds}; columns as CLP has them."""
    classes = dict.fromkeys(name for seeds in rows.values() for one in seeds for name in one.classes)
    columns = {name: Column(name.capitalize(), 100) for name in classes}
    columns |= {"mean_class_accuracy": Column("Avg", 100), "accuracy": Column("Accuracy", 100)}
    return Summary({name: [one.metrics() for one in seeds] for name, seeds in rows.items()}, columns=columns)
