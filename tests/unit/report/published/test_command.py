"""`facscale published`."""

from __future__ import annotations

import csv
import io

import pytest
from click.testing import CliRunner

from facscale.cli import main
from facscale.cli.published import count_numbers
from facscale.report.published import find_results


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: CliRunner().invoke(main, ["published", *words])


def test_alone_it_lists_the_tables(run):
    done = run()
    assert done.exit_code == 0
    lines = {tuple(line.split()[:3]): line.split() for line in done.output.splitlines() if "Table" in line}
    assert lines["CLP", "Table", "I"][3:] == ["BP4D", "F1", "25", "325", "3"]
    assert lines["TCAE", "Table", "3"][3:] == ["GFT", "F1", "9", "99"]
    assert sum(map(count_numbers, find_results())) == 1927


def test_every_digit_is_shown_on_a_narrow_terminal(run):
    output = run("BP4D").output
    assert "…" not in output
    for line in find_results("BP4D"):
        if line.aus:
            assert any(
                shown.split()[-13:-1] == [str(cell) for cell in line.cells.values()] for shown in output.splitlines()
            ), line.name


def test_a_misprint_has_a_footnote(run):
    lines = run("BP4D", "--method", "srerl").output.splitlines()
    assert [line.split()[-1] for line in lines if line.split()[:1] in (["SRERL"], ["SRERL¹"])] == [
        "62.1¹",
        "62.9",
        "62.1¹",
    ]
    assert sum(line.startswith("¹ SRERL: Average 62.1, but its numbers give 62.90") for line in lines) == 2
    assert any(
        line.split()[:2] == ["ResNet18", "4104²"] for line in run("disfa", "--paper", "aunet").output.splitlines()
    )


def test_a_note_that_is_no_misprint_stands_at_the_name(run):
    output = run("DISFA", "--method", "simsiam").output
    assert "SimSiam¹" in output
    assert "eight numbers for VGG emotion" in " ".join(output.split())


def test_misprints_alone(run):
    told = " ".join(run("--misprints").output.split())
    assert told.count("but its numbers give") == 22
    assert told.count("but the average and the others give") == 1
    assert "On DISFA the same numbers for SimSiam" in told
    told = " ".join(run("GFT", "--misprints").output.split())
    assert told == ""
    told = " ".join(run("--misprints", "--method", "AU-FAN").output.split())
    assert told.count("AU-FAN") == 2
    assert "AU-FAN on BP4D: AU4 61.6 (AUNet, Table III), 61.5 (AUNet, Table XIII)." in told


def test_csv_has_every_number_as_printed(run):
    rows = list(csv.DictReader(io.StringIO(run("--csv").output)))
    lines = find_results()
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        cells = {f"AU{what}" if isinstance(what, int) else what: str(cell) for what, cell in line.cells.items()}
        told = {
            "paper",
            "table",
            "data",
            "labels",
            "kind",
            "metric",
            "unit",
            "method",
            "reference",
            "quoted",
            "settings",
        }
        assert {what: cell for what, cell in row.items() if cell and what not in {*told, "Average", "mean"}} == cells
        assert row["Average"] == ("" if line.printed is None else str(line.printed))
    clp = next(row for row in rows if row["table"] == "Table II" and row["method"] == "CLP")
    # 42.4 + 38.7 + 63.5 + 59.7 + 38.9 + 73.0 + 85.0 + 58.1 = 459.3
    assert (clp["kind"], clp["Average"], clp["mean"]) == ("self-supervised", "57.4", "57.413")
    assert rows[0]["quoted"] == "yes"
    assert next(row for row in rows if row["settings"])["settings"] == "L_tcl=✓; L_cir=×; lambda_j=1; |C|=×"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("DISFAA",), 'no published table has the data set "DISFAA" (did you mean "DISFA"?)'),
        (("synthetic_bp4d",), 'no published table has the data set "synthetic_bp4d"'),
        (("--method", "clpp"), 'no published table has the method "clpp" (did you mean "clp"?)'),
        (("--paper", "tcea"), 'no published table has the paper "tcea" (did you mean "tcae"?)'),
        (("GFT", "--method", "rtatl"), "no published row matches all of: GFT rtatl; leave one of them out"),
    ],
)
def test_what_is_not_there_is_said(run, words, message):
    done = run(*words)
    assert done.exit_code == 2
    assert message in done.output
