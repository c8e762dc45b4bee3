"""Tables of methods beside a first one, and of thresholds."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from facscale.evaluate import analyze_thresholds, compare_methods
from facscale.report.comparison import (
    build_comparison_table,
    build_comparison_values,
    build_threshold_table,
)
from predicted import make_pair, make_predictions, make_tied_predictions


def test_comparison_shows_itself():
    a, b = make_pair(900)
    comparison = compare_methods([[a], [b], [replace(a, name="again")]], threshold=0.5)
    test, gap = comparison.rows[1].test, comparison.rows[1].difference
    lines = build_comparison_table(comparison).to_markdown().splitlines()
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[2].endswith("| - | - | - | - | - |")
    assert f"| {gap.f1.format(sign='+')} |" in lines[3]
    assert f"| {100 * test.difference:+.2f} | {test.frames_t:.2f} | {test.frames_p:.2g} |" in lines[3]
    assert lines[4].endswith("| +0.00 | 0.00 | 1 | 0.00 | 1 |")
    assert lines[5:] == ["", f"- {gap.verdict}", f"- {comparison.rows[2].difference.verdict}"]
    assert comparison.verdicts[1] == "not distinguishable with these 9 subjects: again - a = +0.0 [0.0, 0.0]"
    first, second, _ = csv.DictReader(io.StringIO(build_comparison_values(comparison).to_csv()))
    assert first["frames_t"] == ""
    assert float(second["subjects_p"]) == test.subjects_p
    assert float(second["f1"]) == comparison.rows[1].f1
    assert [float(second[name]) for name in ("f1_difference", "f1_low", "f1_high")] == list(gap.f1)
    assert (first["verdict"], second["verdict"]) == ("", gap.verdict)
    console = Console(width=160, file=io.StringIO())
    console.print(build_comparison_table(comparison, title="compared").to_rich())
    assert f"{test.frames_t:.2f}" in console.file.getvalue()
    assert "errs less than a" in console.file.getvalue()
    assert gap.verdict in console.file.getvalue()


def test_a_vanishing_p_is_shown_as_such():
    a, b = (make_predictions([[value]] * 4, [[0]] * 4, identity=list("aabb")) for value in (0.5, 0.25))
    comparison = compare_methods([[a], [b]], threshold=0.5)
    assert "| -inf | < 1e-300 | -inf | < 1e-300 |\n" in build_comparison_table(comparison).to_markdown()


def test_thresholds_show_themselves():
    one, other = make_tied_predictions(), make_tied_predictions(seed=1)
    rows = (
        analyze_thresholds([one, other], threshold=0.4),
        analyze_thresholds([replace(one, name="alone")], threshold=0.4),
    )
    assert rows[0].fixed.shape == (6, 2)
    table = build_threshold_table(rows, title="thresholds")
    lines = table.to_markdown().splitlines()
    assert lines[0].startswith("| method | F1 x 100 at 0.4 |")
    assert "cheating" in lines[0]
    assert lines[3].startswith(f"| alone | {100 * one.score(0.4).mean:.1f} |")
    assert len({line.count("|") for line in lines}) == 1
    seeds = [float(split.score(0.4).mean) for split in (one, other)]
    assert lines[2].startswith(f"| ours | {100 * np.mean(seeds):.1f} |")
    assert f"| {100 * rows[1].oracle.mean():.1f} |" in lines[3]
    console = Console(width=160, file=io.StringIO())
    console.print(table.to_rich())
    assert "a bound, no result" in console.file.getvalue()


def test_where_nothing_is_cross_fitted_a_dash_stands():
    alone = replace(make_tied_predictions(), fold=np.zeros(300, np.int8), folds=("all",))
    assert "| - |" in build_threshold_table([analyze_thresholds([alone], threshold=0.5)]).to_markdown()
