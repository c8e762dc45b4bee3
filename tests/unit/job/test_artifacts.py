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
from facscale.evaluate import Predictions, Row
from facscale.job.artifacts import note, same_but_for_people, tell_comparison
from facscale.job.variants import rows
from facscale.report.table import Table
from facscale.spec import read


def test_rows_that_differ_in_people_alone_make_a_line(monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    of_people = rows(read(ROOT / "jobs" / "rtatl_people.yaml"), name="both tasks")
    lines = same_but_for_people(of_people)
    assert list(lines) == ["both tasks", "no tasks"]
    for line in lines.values():
        assert [row.job.evaluate.subjects for row in line] == [27, 21, 15, 9, 3]
    assert not same_but_for_people(rows(read(ROOT / "jobs" / "rtatl.yaml"), name="rtatl"))


def test_a_runs_page_begins_with_its_tables_and_ends_with_its_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("method: {name: clp, margin: 0.2}\ntrain: {epochs: 3}\n")
    (main,) = rows(read(path, ["seed=4"]), name="main")
    table = Table((Row.published("clp", f1={1: 50.0, 12: 60.0}, source="paper"),))
    page = note({"bp4d": table, "disfa": table}, main=main)
    assert page.index("**F1 x 100 on bp4d**") < page.index("**F1 x 100 on disfa**") < page.index("```yaml")
    assert yaml.safe_load(page.split("```yaml")[1].split("```")[0]) == {
        "method": {"name": "clp", "margin": 0.2}, "train": {"epochs": 3}, "seed": 4,
    }  # fmt: skip


class Kept:
    """Stands in for a tracker's run: what it was given, by name."""

    def __init__(self):
        self.found = {}

    def text(self, text, name):
        self.found[name] = text

    def figure(self, figure, name):
        self.found[name] = figure


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
            "in two splits": Predictions.repeated([one, one]),
            "by every fold": Predictions.joined([alike] * 3),
        }[times]

    rows = [[seen(said(name, seed=seed, noise=noise)) for seed in (0, 1)] for name, noise in (("a", 0.2), ("b", 0.6))]
    kept, console = Kept(), Console(width=150, file=io.StringIO())
    tell_comparison(rows, title="BP4D", threshold=0.5, console=console, tracker=kept)
    assert sorted(kept.found) == ["comparison_BP4D.csv", "comparison_BP4D.md", "timeline_BP4D"]
    first, second = csv.DictReader(io.StringIO(kept.found["comparison_BP4D.csv"]))
    assert second["verdict"].startswith("b is worse than a by ")
    assert second["verdict"] in console.file.getvalue()
    assert float(second["f1_difference"]) == pytest.approx(float(second["f1"]) - float(first["f1"]))
    lines = kept.found["timeline_BP4D"].axes[0].lines
    assert all((np.diff(line.get_xdata()) > 0).all() for line in lines if len(line.get_xdata()) > 2)  # each frame once


def test_a_row_alone_is_not_compared():
    kept = Kept()
    tell_comparison([[said("a", seed=0, noise=0.2)]], title="BP4D", threshold=0.5, console=Console(), tracker=kept)
    assert not kept.found
