"""The table of F1: what it shows, and that JSON reads back."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from facscale.evaluate import MethodScores
from facscale.report.f1_table import F1Table
from facscale.report.published import find_results
from predicted import make_scores

NAMED = [("a", "linear-probe"), ("b", "adapted-batchnorm"), ("c", "linear-probe"), ("d", "")]


@pytest.fixture
def row():
    return make_scores()


def test_a_table_survives_json_and_shows_itself(row):
    paper = MethodScores.from_paper("paper", f1={1: 47.7, 17: 60.0}, source="Table I")
    table = F1Table((row,)) + F1Table((paper,))
    assert F1Table.from_json(table.to_json()).to_json() == table.to_json()
    assert json.loads(table.to_json())["rows"][0]["by_fold"][1][1] is None
    assert table.aus == (1, 12, 17)
    console = Console(width=120, file=io.StringIO())
    console.print(table.build_table().to_rich())
    shown = console.file.getvalue()
    assert all(word in shown for word in ("AU12", "Avg", "60.0", "47.7", "55.0"))
    assert "no positive frame of AU12 in fold1" in " ".join(shown.split())


def test_rows_of_different_protocols_stand_together_with_a_note(row):
    rows = [replace(row, name=name, protocol=protocol) for name, protocol in NAMED]
    table = F1Table((*rows, find_results("BP4D", paper="CLP", method="clp")[0].to_scores()))
    console = Console(width=200, file=io.StringIO())
    console.print(table.build_table().to_rich())
    for shown in (console.file.getvalue(), table.build_table().to_markdown()):
        assert "linear probe on the frozen encoder: a, c" in shown
        assert "linear probe on the encoder, which is frozen except for its BatchNorm layers: b" in shown
        assert "protocol not recorded: d" in shown
    assert "frozen but for its batch norm" in console.file.getvalue(), "the paper's own words"
    assert F1Table.from_json(table.to_json()).protocol_notes == table.protocol_notes
    before = json.loads(table.to_json())
    for entry in before["rows"]:
        del entry["protocol"]
    assert F1Table.from_json(json.dumps(before)).protocol_notes == ()
    lines = table.build_fold_table().to_csv().splitlines()
    assert [line.split(",")[-1] for line in lines if ",mean," in line] == [*(protocol for _, protocol in NAMED), ""]


def test_csv_has_a_line_a_fold(row):
    lines = (
        F1Table((row, MethodScores.from_paper("paper", f1={1: 50.0}, source="")))
        .build_fold_table()
        .to_csv()
        .splitlines()
    )
    assert lines[0] == "method,fold,AU1,AU12,Avg,protocol"
    assert lines[1] == "ours,mean,60.00,50.00,55.00,"
    assert lines[4] == "ours,fold1,40.00,,40.00,"
    assert lines[5:] == ["paper,mean,50.00,,50.00,"]


def test_markdown_is_a_table_with_a_cell_for_every_au_of_every_row():
    rows = (
        MethodScores.from_paper("a", f1={1: 50.0, 12: 61.0}, source=""),
        MethodScores.from_paper("b", f1={12: 40.0}, source=""),
    )
    assert F1Table(rows).build_table().to_markdown().splitlines() == [
        "|  | AU1 | AU12 | Avg |",
        "| --- | ---: | ---: | ---: |",
        "| a | 50.0 | 61.0 | 55.5 |",
        "| b | - | 40.0 | 40.0 |",
    ]
