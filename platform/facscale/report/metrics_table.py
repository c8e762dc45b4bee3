"""One row per method: what its encoder is worth beside F1, what its training cost, and how well it tells expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from facscale.evaluate.expression import ConfusionMatrix
from facscale.report.table import Column, ReportTable

Metrics = Mapping[str, float]  # of one training, by the names that the tracker uses


class Metric(NamedTuple):
    """How a metric is shown: its value times `factor`, with so many decimals."""

    heading: str
    factor: float = 1.0
    decimals: int = 1


METRICS = {
    "f1/mean": Metric("F1 x 100", 100),
    "encoder/au_f1": Metric("AUs, rendered: F1 x 100", 100),
    "encoder/pose_r2": Metric("pose: R2", decimals=2),
    "identity/accuracy": Metric("identity, %", 100),
    "effective_rank": Metric("effective rank"),
    "recall/at_10": Metric("recall at 10, %", 100),
    "seconds_per_step": Metric("s a step", decimals=3),
    "peak_memory_gb": Metric("peak GB", decimals=2),
}


def build_metrics_table(
    rows: Mapping[str, Sequence[Metrics]],
    *,
    title: str = "",
    metrics: Mapping[str, Metric] = METRICS,
    notes: Sequence[str] = (),
) -> ReportTable:
    """Mean and sample standard deviation over the seeds of each method, {method: the metrics of each seed}.

    metrics: the columns; those that no training has are left out.
    """
    names = set(_metric_names(rows))
    shown = {name: metric for name, metric in metrics.items() if name in names}
    columns = [
        Column("method", align="left", can_wrap=False),
        *(Column(metric.heading) for metric in shown.values()),
    ]
    cells = [
        [method, *(format_mean_std(_collect_values(seeds, name), metric) for name, metric in shown.items())]
        for method, seeds in rows.items()
    ]
    return ReportTable(columns, cells, title=title, notes=notes, should_align_markdown=False)


def build_training_table(rows: Mapping[str, Sequence[Metrics]]) -> ReportTable:
    """Every metric of every training for a CSV file, {method: the metrics of each seed}; one row per method and seed."""
    names = _metric_names(rows)
    columns = [Column(name) for name in ("method", "training", *names)]
    cells = [
        [method, number, *(str(metrics[name]) if name in metrics else None for name in names)]
        for method, seeds in rows.items()
        for number, metrics in enumerate(seeds)
    ]
    return ReportTable(columns, cells)


def format_mean_std(values: np.ndarray, metric: Metric) -> str | None:
    """'35.6 ± 0.8' for the values of several seeds, '35.6' for one, None for none."""
    if not len(values):
        return None
    scaled = values * metric.factor
    mean = f"{scaled.mean():.{metric.decimals}f}"
    return f"{mean} ± {scaled.std(ddof=1):.{metric.decimals}f}" if len(values) > 1 else mean


def collect_accuracies(rows: Mapping[str, Sequence[ConfusionMatrix]]) -> dict[str, list[Metrics]]:
    """Accuracies of expressions in [0, 1], for the two tables above; {method: the confusion matrix of each seed}."""
    return {method: [matrix.to_metrics() for matrix in seeds] for method, seeds in rows.items()}


def build_expression_table(rows: Mapping[str, Sequence[ConfusionMatrix]], *, title: str = "") -> ReportTable:
    """Accuracy x 100 of each class, their mean and the accuracy over all faces, with CLP's columns.

    rows: {method: the confusion matrix of each seed}.
    """
    classes = dict.fromkeys(name for seeds in rows.values() for matrix in seeds for name in matrix.classes)
    metrics = {name: Metric(name.capitalize(), 100) for name in classes}
    metrics |= {"mean_class_accuracy": Metric("Avg", 100), "accuracy": Metric("Accuracy", 100)}
    return build_metrics_table(collect_accuracies(rows), title=title, metrics=metrics)


def build_confusion_table(matrix: ConfusionMatrix) -> ReportTable:
    """Numbers of faces for a CSV file: one row per true class, one column per predicted class."""
    rows = [[name, *counts] for name, counts in zip(matrix.classes, matrix.counts.tolist(), strict=True)]
    return ReportTable([Column(name) for name in ("true", *matrix.classes)], rows)


def _metric_names(rows: Mapping[str, Sequence[Metrics]]) -> list[str]:
    return list(dict.fromkeys(name for seeds in rows.values() for metrics in seeds for name in metrics))


def _collect_values(seeds: Sequence[Metrics], name: str) -> np.ndarray:
    return np.array([metrics[name] for metrics in seeds if name in metrics], float)
