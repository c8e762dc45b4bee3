"""Which rows make one line of F1 against people."""

from __future__ import annotations

from conftest import ROOT
from facscale.job.artifacts import same_but_for_people
from facscale.job.variants import rows
from facscale.spec import read


def test_rows_that_differ_in_people_alone_make_a_line(monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    of_people = rows(read(ROOT / "jobs" / "rtatl_people.yaml"), name="both tasks")
    lines = same_but_for_people(of_people)
    assert list(lines) == ["both tasks", "no tasks"]
    for line in lines.values():
        assert [row.job.evaluate.subjects for row in line] == [27, 21, 15, 9, 3]
    assert not same_but_for_people(rows(read(ROOT / "jobs" / "rtatl.yaml"), name="rtatl"))
