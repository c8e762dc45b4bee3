"""What a job keeps: lines of F1 against people, rows beside the first one, what stands on a run's page."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import yaml
from rich.console import Console

from conftest import ROOT
from facscale.evaluate import MethodScores, Predictions
from facscale.job.results import describe_job, group_by_subjects, report_comparison
from facscale.job.variants import expand_variants
from facscale.report.bundle import Report
from facscale.report.f1_table import F1Table
from facscale.spec import read_spec


def test_rows_that_differ_in_people_alone_make_a_line(monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    of_people = expand_variants(read_spec(ROOT / "jobs" / "rtatl_people.yaml"), name="both tasks")
    lines = group_by_subjects(of_people)
    assert list(lines) == ["both tasks", "no tasks"]
    for line in lines.values():
        assert [row.job.evaluate.subjects for row in line] == [27, 21, 15, 9, 3]
    assert not group_by_subjects(expand_variants(read_spec(ROOT / "jobs" / "rtatl.yaml"), name="rtatl"))


def test_a_runs_page_begins_with_its_tables_and_ends_with_its_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("method: {name: clp, margin: 0.2}\ntrain: {epochs: 3}\n")
    (main,) = expand_variants(read_spec(path, ["seed=4"]), name="main")
    table = F1Table((MethodScores.from_paper("clp", f1={1: 50.0, 12: 60.0}, source="paper"),))
    page = describe_job({"bp4d": table, "disfa": table}, main=main)
    assert page.index("**F1 x 100 on bp4d**") < page.index("**F1 x 100 on disfa**") < page.index("```yaml")
    assert yaml.safe_load(page.split("```yaml")[1].split("```")[0]) == {
        "method": {"name": "clp", "margin": 0.2}, "train": {"epochs": 3}, "seed": 4,
    }  # fmt: skip


def said(name, *, seed, noise):
    """Four people in two folds, one frame fewer for every seed."""
    random, number = np.random.default_rng(seed), np.arange(80 - seed)
    au = (np.arange(80)[:, None] // (2, 3) % 2).astype(np.int8)[: 80 - seed]
    probability = np.clip(au + random.normal(0, noise, au.shape), 0, 1).astype(np.float32)
    return Predictions(
        name, (1, 2), probability, au, np.array([f"p{one % 4}" for one in number]), np.full(len(number), "v"),
        number.astype(np.int32), (number % 2).astype(np.int8), ("fold0", "fold1"),
    )  # fmt: skip


@pytest.mark.parametrize("times", ["once", "in two splits", "by every fold"])
def test_rows_are_compared_over_the_frames_of_all_seeds(times):
    def seen(one):
        alike = replace(one, fold=np.zeros(len(one), np.int8), folds=("all",))
        return {
            "once": one,
            "in two splits": Predictions.concat_splits([one, one]),
            "by every fold": Predictions.concat([alike] * 3),
        }[times]

    rows = [[seen(said(name, seed=seed, noise=noise)) for seed in (0, 1)] for name, noise in (("a", 0.2), ("b", 0.6))]
    report, console = report_comparison(rows, title="BP4D", threshold=0.5), Console(width=150, file=io.StringIO())
    console.print(*(table.to_rich() for table in report.tables))
    assert sorted({**report.texts, **report.figures}) == ["comparison_BP4D.csv", "comparison_BP4D.md", "timeline_BP4D"]
    first, second = csv.DictReader(io.StringIO(report.texts["comparison_BP4D.csv"]))
    assert second["verdict"].startswith("b is worse than a by ")
    assert second["verdict"] in console.file.getvalue()
    assert float(second["f1_difference"]) == pytest.approx(float(second["f1"]) - float(first["f1"]))
    lines = report.figures["timeline_BP4D"].axes[0].lines
    assert all((np.diff(line.get_xdata()) > 0).all() for line in lines if len(line.get_xdata()) > 2)  # each frame once


def test_a_row_alone_is_not_compared():
    assert report_comparison([[said("a", seed=0, noise=0.2)]], title="BP4D", threshold=0.5) == Report()
