"""One line a method."""

from __future__ import annotations

import csv
import io

import numpy as np

from facscale.evaluate.expression import ConfusionMatrix
from facscale.report.metrics_table import (
    build_confusion_table,
    build_expression_table,
    build_metrics_table,
    build_training_table,
    collect_accuracies,
)

METRICS = {
    "clp": [{"f1/mean": 0.30, "effective_rank": 10.0}, {"f1/mean": 0.34, "effective_rank": 12.0}],
    "random": [{"f1/mean": 0.2, "loss": 1.5}],
}


def test_mean_and_spread_of_the_seeds():
    lines = build_metrics_table(METRICS).to_markdown().splitlines()
    assert lines[0] == "| method | F1 x 100 | effective rank |"  # what nobody has is no column
    # 30 and 34: mean 32, sample standard deviation sqrt(2 * 4) = 2.83
    assert lines[2] == "| clp | 32.0 ± 2.8 | 11.0 ± 1.4 |"
    assert lines[3] == "| random | 20.0 | - |"


def test_the_csv_holds_every_figure_unrounded():
    lines = list(csv.DictReader(io.StringIO(build_training_table(METRICS).to_csv())))
    assert [(line["method"], line["training"], line["f1/mean"]) for line in lines] == [
        ("clp", "0", "0.3"),
        ("clp", "1", "0.34"),
        ("random", "0", "0.2"),
    ]
    assert lines[2]["loss"] == "1.5"
    assert lines[2]["effective_rank"] == ""


def test_the_table_has_a_row_a_method_and_the_spread_of_its_seeds():
    one = ConfusionMatrix(("calm", "glad"), np.array([[3, 1], [1, 1]]))
    two = ConfusionMatrix(("calm", "glad"), np.array([[4, 0], [1, 1]]))
    rows = {"ours": [one, two], "random": [one]}
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in build_expression_table(rows).to_markdown().splitlines()
    ]
    assert lines[0] == ["method", "Calm", "Glad", "Avg", "Accuracy"]
    assert lines[2] == ["ours", "87.5 ± 17.7", "50.0 ± 0.0", "68.8 ± 8.8", "75.0 ± 11.8"]
    assert lines[3] == ["random", "75.0", "50.0", "62.5", "66.7"]
    assert (
        build_training_table(collect_accuracies(rows)).to_csv().splitlines()[0]
        == "method,training,accuracy,mean_class_accuracy,calm,glad"
    )


def test_a_confusion_matrix_as_csv():
    matrix = ConfusionMatrix(("calm", "glad", "wild"), np.array([[2, 1, 1], [0, 0, 0], [1, 0, 2]]))
    assert build_confusion_table(matrix).to_csv() == "true,calm,glad,wild\ncalm,2,1,1\nglad,0,0,0\nwild,1,0,2\n"
