"""One line a method."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from facscale.evaluate import Row
from facscale.evaluate.f1 import Counts
from facscale.report.summary import Summary

FIGURES = {
    "clp": [{"f1/mean": 0.30, "effective_rank": 10.0}, {"f1/mean": 0.34, "effective_rank": 12.0}],
    "random": [{"f1/mean": 0.2, "loss": 1.5}],
}


def test_mean_and_spread_of_the_seeds():
    lines = Summary(FIGURES).markdown().splitlines()
    assert lines[0] == "| method | F1 x 100 | effective rank |"  # what nobody has is no column
    # 30 and 34: mean 32, sample standard deviation sqrt(2 * 4) = 2.83
    assert lines[2] == "| clp | 32.0 ± 2.8 | 11.0 ± 1.4 |"
    assert lines[3] == "| random | 20.0 | - |"


def test_the_csv_holds_every_figure_unrounded():
    lines = list(csv.DictReader(io.StringIO(Summary(FIGURES).csv())))
    assert [(line["method"], line["training"], line["f1/mean"]) for line in lines] == [
        ("clp", "0", "0.3"), ("clp", "1", "0.34"), ("random", "0", "0.2"),
    ]  # fmt: skip
    assert lines[2]["loss"] == "1.5"
    assert lines[2]["effective_rank"] == ""


def test_a_row_of_several_seeds_is_their_mean():
    def row(tp):
        counts = Counts(*(np.array([[value, 1], [value, 1]]) for value in (tp, 1, 1)))
        return Row.counted("m", aus=(1, 2), counts=counts, folds=("a", "b"))

    one, other = row(1), row(3)
    both = Row.repeated([one, other])
    assert both.seeds == 2
    assert both.folds == ("seed0 a", "seed0 b", "seed1 a", "seed1 b")
    assert both.mean == pytest.approx((one.mean + other.mean) / 2)
    assert Row.repeated([one]) is one
