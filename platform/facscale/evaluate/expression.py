"""Facial expressions from frozen features: a linear probe with softmax, tested on the published split.

CLP (Li & Shan), section IV.C.3, compares methods on RAF-DB and AffectNet (Tables V and VI) and does not say how the
classifier is trained. Taken over from its AU protocol (section IV.A): BatchNorm1d and a bias-free linear layer, and a
loss "reweighted ... inversely proportional to the class frequencies", so that each class weighs the same. The tables'
"Average" is the unweighted mean of the classes' accuracies (62.3 in Table V is the mean of its seven numbers), not the
share of images that are classified correctly; both are reported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from facscale.compat.torch import without_compiler
from facscale.data import DataError, Dataset
from facscale.evaluate.f1 import nanmean
from facscale.evaluate.probe import create_probe
from facscale.nn.heads import LinearProbe
from facscale.spec.models import Probe


@dataclass(frozen=True)
class ExpressionDataset:
    """A data set of N faces with one expression each, of k classes."""

    url: str
    name: str
    fingerprint: str
    classes: tuple[str, ...]
    expression: np.ndarray  # [N] int8, number of the class; -1: none
    test: np.ndarray  # [N] bool, whether it is in the test part
    keys: tuple[tuple[str, str, int], ...]  # identity, video and frame of each face

    @classmethod
    def open(cls, url: str) -> ExpressionDataset:
        """Read the labels and the split. Raises DataError for a data set without expressions, or without a part."""
        dataset = Dataset(url)
        manifest = dataset.manifest
        if not manifest.expressions:
            raise DataError(
                f"{url} (evaluate.expressions) has no expressions; make it from a source that has some, such as RAF-DB "
                "(pipelines/rafdb.yaml)"
            )
        table = dataset.read_columns(["identity", "video", "frame", "expression", "part"])
        expression, part = table["expression"].to_numpy(), np.asarray(table["part"].to_pylist())
        for name in ("train", "test"):
            if not (expression[part == name] >= 0).any():
                raise DataError(f"{url} (evaluate.expressions) has no face with an expression in its part {name!r}")
        keys = zip(*(table[name].to_pylist() for name in ("identity", "video", "frame")), strict=True)
        return cls(
            url=dataset.url,
            name=manifest.name,
            fingerprint=manifest.fingerprint,
            classes=manifest.expressions,
            expression=expression,
            test=part == "test",
            keys=tuple(keys),
        )

    def __len__(self) -> int:
        return len(self.expression)

    def find_rows(self, *, identity: np.ndarray, video: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Row numbers [M] of the given faces [M]: embeddings lack the faces that could not be read."""
        rows = {key: row for row, key in enumerate(self.keys)}
        keys = zip(identity.tolist(), video.tolist(), frame.tolist(), strict=True)
        return np.array([rows[key] for key in keys])


@dataclass(frozen=True)
class ConfusionMatrix:
    """Expressions that a probe predicted for test faces."""

    classes: tuple[str, ...]
    counts: np.ndarray  # [k, k] int64: faces of the row's true class that were classified as the column's

    @property
    def accuracy(self) -> float:
        """Share of the faces that are classified correctly, in [0, 1]."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def row_shares(self) -> np.ndarray:
        """The counts as shares of their row [k, k]; nan for a class without a face."""
        total = self.counts.sum(axis=1, keepdims=True)
        shares: np.ndarray = np.divide(self.counts, total, out=np.full(self.counts.shape, np.nan), where=total > 0)
        return shares

    @property
    def mean_class_accuracy(self) -> float:
        """Unweighted mean of the classes' accuracies: the papers' "Average"."""
        return float(nanmean(np.diag(self.row_shares)))

    def to_metrics(self) -> dict[str, float]:
        """Metrics in [0, 1]: accuracy, mean_class_accuracy and each class by its name; undefined ones are left out."""
        metrics = {"accuracy": self.accuracy, "mean_class_accuracy": self.mean_class_accuracy}
        metrics |= dict(zip(self.classes, map(float, np.diag(self.row_shares)), strict=True))
        return {name: value for name, value in metrics.items() if not np.isnan(value)}


@without_compiler()
def fit_expression_probe(
    features: np.ndarray, *, expression: np.ndarray, classes: int, probe: Probe, seed: int
) -> LinearProbe:
    """Train a probe on features [N, D] and classes [N] with Adam on shuffled minibatches; the same seed, the same probe.

    The loss is cross-entropy, in which a face of class c weighs N / (k N_c), 1 on average, or always 1 with
    `probe.weighting: none`. Faces without an expression (-1) are left out. Returns the probe in evaluation mode. Raises ValueError for fewer than 2 faces.
    """
    labelled = expression >= 0
    x = torch.from_numpy(features[labelled].astype(np.float32))
    y = torch.from_numpy(expression[labelled].astype(np.int64))
    if len(x) < 2:
        raise ValueError(f"a probe needs at least 2 faces with an expression, here are {len(x)}")
    counts = torch.bincount(y, minlength=classes)
    weights = len(y) / ((counts > 0).sum() * counts.clamp(min=1)).float()
    if probe.weighting == "none":
        weights = torch.ones(classes)
    random = torch.Generator().manual_seed(seed)
    model = create_probe(dim=x.shape[1], aus=classes, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=probe.lr, weight_decay=probe.weight_decay)
    for _ in range(probe.epochs):
        for rows in torch.split(torch.randperm(len(x), generator=random), probe.batch_size):
            if len(rows) == 1:  # BatchNorm has no variance to divide by
                continue
            losses = cross_entropy(model(x[rows]), y[rows], reduction="none")
            optimizer.zero_grad()
            (losses * weights[y[rows]]).mean().backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def evaluate_expression_probe(
    model: LinearProbe, *, features: np.ndarray, expression: np.ndarray, classes: Sequence[str]
) -> ConfusionMatrix:
    """Classify test faces, features [N, D], and compare with their classes [N]; faces without one (-1) are left out."""
    labelled = expression >= 0
    predicted = model(torch.from_numpy(features[labelled].astype(np.float32))).argmax(dim=1).numpy()
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (expression[labelled].astype(int), predicted), 1)
    return ConfusionMatrix(tuple(classes), counts)
