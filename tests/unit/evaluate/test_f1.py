import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rich.console import Console
from sklearn.metrics import f1_score

from facscale.evaluate import Counts, Row, count
from facscale.evaluate.f1 import mean
from facscale.report.table import Table


@settings(deadline=None)
@given(data=st.data(), frames=st.integers(1, 30), threshold=st.sampled_from([0.2, 0.5, 0.9]))
def test_f1_is_scikit_learns_on_the_labelled_frames(data, frames, threshold):
    au = data.draw(arrays.arrays(np.int8, (frames, 3), elements=st.integers(-1, 1)))
    probability = data.draw(arrays.arrays(np.float32, (frames, 3), elements=st.floats(0, 1, width=32)))
    ours = count(probability=probability, au=au, threshold=threshold).f1
    for number in range(3):
        known = au[:, number] >= 0
        if not (au[known, number] == 1).any():
            assert np.isnan(ours[number])
            continue
        theirs = f1_score(au[known, number], probability[known, number] >= threshold, zero_division=0)
        assert ours[number] == pytest.approx(theirs)


def test_by_hand():
    probability = np.array([[0.9], [0.5], [0.4], [0.9], [0.9]])
    au = np.array([[1], [1], [1], [0], [-1]], np.int8)
    found = count(probability=probability, au=au)
    assert [found.tp.item(), found.fp.item(), found.fn.item()] == [2, 1, 1]  # 0.5 is found; -1 is no part of it
    assert found.f1.item() == pytest.approx(4 / 6)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        count(probability=np.zeros((2, 3)), au=np.zeros((2, 1), np.int8))


def test_mean_ignores_what_is_undefined():
    assert mean(np.array([[1.0, np.nan], [3.0, np.nan]]), axis=0).tolist()[0] == 2
    assert np.isnan(mean(np.array([np.nan])))


@pytest.fixture
def row():
    """Two folds, two AUs: F1 of 0.8 and 0.5, then 0.4 and none."""
    counts = Counts(tp=np.array([[4, 1], [1, 0]]), fp=np.array([[1, 1], [1, 3]]), fn=np.array([[1, 1], [2, 0]]))
    return Row.counted("ours", aus=(1, 12), counts=counts, folds=("fold0", "fold1"), source="drawn with seed 0")


def test_a_row_means_over_folds_then_over_aus(row):
    assert row.f1 == pytest.approx([0.6, 0.5])
    assert row.mean == pytest.approx(0.55)
    assert row.fold_means == pytest.approx([0.65, 0.4])
    assert row.pooled == pytest.approx([10 / 15, 2 / 7])
    assert row.undefined == ("AU12 in fold1",)


def test_with_everything_defined_the_mean_is_the_papers():
    random = np.random.default_rng(0)
    counts = Counts(*random.integers(1, 50, (3, 3, 12)))
    row = Row.counted("ours", aus=range(12), counts=counts, folds="abc")
    assert row.mean == pytest.approx(np.mean([row.by_fold[fold].mean() for fold in range(3)]))


def test_metrics_are_flat_and_leave_out_what_is_undefined(row):
    metrics = row.metrics()
    assert metrics["f1/AU12"] == 0.5
    assert metrics["fold0/f1/AU1"] == pytest.approx(0.8)
    assert metrics["fold1/f1/mean"] == pytest.approx(0.4)
    assert metrics["pooled/f1/mean"] == pytest.approx((10 / 15 + 2 / 7) / 2)
    assert "fold1/f1/AU12" not in metrics


def test_a_table_survives_json_and_shows_itself(row):
    paper = Row.published("paper", f1={1: 47.7, 17: 60.0}, source="Table I")
    table = Table((row,)) + Table((paper,))
    assert Table.read(table.json()).json() == table.json()
    assert json.loads(table.json())["rows"][0]["by_fold"][1][1] is None
    assert table.aus == (1, 12, 17)
    console = Console(width=120, file=io.StringIO())
    console.print(table.rich())
    shown = console.file.getvalue()
    assert all(word in shown for word in ("AU12", "Avg", "60.0", "47.7", "55.0"))
    assert "no positive frame of AU12 in fold1" in " ".join(shown.split())


def test_csv_has_a_line_a_fold(row):
    lines = Table((row, Row.published("paper", f1={1: 50.0}, source=""))).csv().splitlines()
    assert lines[0] == "method,fold,AU1,AU12,Avg"
    assert lines[1] == "ours,mean,60.00,50.00,55.00"
    assert lines[4] == "ours,fold1,40.00,,40.00"
    assert lines[5:] == ["paper,mean,50.00,,50.00"]


def test_markdown_is_a_table_with_a_cell_for_every_au_of_every_row():
    rows = (Row.published("a", f1={1: 50.0, 12: 61.0}, source=""), Row.published("b", f1={12: 40.0}, source=""))
    assert Table(rows).markdown().splitlines() == [
        "|  | AU1 | AU12 | Avg |",
        "| --- | ---: | ---: | ---: |",
        "| a | 50.0 | 61.0 | 55.5 |",
        "| b | - | 40.0 | 40.0 |",
    ]
