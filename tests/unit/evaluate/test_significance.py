"""Methods beside a first one."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from facscale.evaluate import adjacency_distance, compared, dependency_f1, difference, paired_t
from judged import judged, pair


def test_comparison_holds_what_each_function_says():
    a, b = pair()
    rows = compared([[a], [b]], threshold=0.5).rows
    assert [row.name for row in rows] == ["a", "b"]
    assert rows[0].test is rows[0].difference is None
    assert rows[1].test == paired_t(a, b)
    assert rows[1].difference == difference([a], [b], threshold=0.5)
    for row, method in zip(rows, (a, b), strict=True):
        assert row.f1 == pytest.approx(method.row(0.5).mean)
        assert row.distance == adjacency_distance(method, threshold=0.5)
        assert row.dependency == dependency_f1(method, threshold=0.5)


def test_f1_and_its_difference_are_of_all_seeds():
    seeds = [pair(seed=seed) for seed in (0, 0, 0)]
    noise = np.random.default_rng(0).normal(0, 0.2, (3, 90, 3))
    a, b = (
        [
            replace(one[side], probability=np.clip(one[side].probability + more, 0, 1))
            for one, more in zip(seeds, noise, strict=True)
        ]
        for side in (0, 1)
    )
    rows = compared([a, b[:2]], threshold=0.5).rows
    assert rows[1].f1 == pytest.approx(np.mean([one.row(0.5).mean for one in b[:2]]))
    assert rows[1].difference.f1.value == pytest.approx(rows[1].f1 - rows[0].f1)
    assert rows[1].difference.seeds == (3, 2)
    assert rows[1].test == paired_t(a[0], b[0])


def test_comparison_shows_itself():
    a, b = pair(900)
    table = compared([[a], [b], [replace(a, name="again")]], threshold=0.5)
    test, gap = table.rows[1].test, table.rows[1].difference
    lines = table.markdown().splitlines()
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[2].endswith("| - | - | - | - | - |")
    assert f"| {gap.f1.shown(sign='+')} |" in lines[3]
    assert f"| {100 * test.difference:+.2f} | {test.frames_t:.2f} | {test.frames_p:.2g} |" in lines[3]
    assert lines[4].endswith("| +0.00 | 0.00 | 1 | 0.00 | 1 |")
    assert lines[5:] == ["", f"- {gap.verdict()}", f"- {table.rows[2].difference.verdict()}"]
    assert table.verdicts[1] == "not distinguishable with these 9 subjects: again - a = +0.0 [0.0, 0.0]"
    first, second, _ = csv.DictReader(io.StringIO(table.csv()))
    assert first["frames_t"] == ""
    assert float(second["subjects_p"]) == test.subjects_p
    assert float(second["f1"]) == table.rows[1].f1
    assert [float(second[name]) for name in ("f1_difference", "f1_low", "f1_high")] == list(gap.f1)
    assert (first["verdict"], second["verdict"]) == ("", gap.verdict())
    console = Console(width=160, file=io.StringIO())
    console.print(table.rich(title="compared"))
    assert f"{test.frames_t:.2f}" in console.file.getvalue()
    assert "errs less than a" in console.file.getvalue()
    assert gap.verdict() in console.file.getvalue()


def test_a_vanishing_p_is_shown_as_such():
    a, b = (judged([[value]] * 4, [[0]] * 4, identity=list("aabb")) for value in (0.5, 0.25))
    assert "| -inf | < 1e-300 | -inf | < 1e-300 |\n" in compared([[a], [b]], threshold=0.5).markdown()
