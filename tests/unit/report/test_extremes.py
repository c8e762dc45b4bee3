"""Pages and figures with data at their extremes: many rows and AUs, long names, nothing defined, a narrow screen."""

from __future__ import annotations

import base64
import io
import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from browser import browser_page, chromium
from facscale.evaluate import MethodScores, compare_methods
from facscale.report.compare.comparison_report import MAX_DRAWN_ROWS, MAX_LISTED_VERDICTS, ComparisonReport
from facscale.report.f1_table import F1Table
from facscale.report.figures import MAX_NAME, MAX_WIDTH, count_legend_columns, plot_f1_bars, shorten_name
from facscale.report.pages import render_page
from facscale.report.strips import plot_subject_strips
from facscale.report.table import Column, ReportTable
from predicted import make_pair, make_predictions

LONG = "RTATL with regional and temporal auxiliary tasks, from ImageNet, at half the rate, without motion, seed"
MANY_AUS = tuple(range(1, 41))


def make_scores(name, *, aus=(1, 2, 12), value=0.5):
    by_fold = np.full((3, len(aus)), value)
    return MethodScores(name, aus, by_fold, by_fold.mean(0), ("fold0", "fold1", "fold2"))


def test_long_names_are_shortened_in_the_middle_and_stay_apart():
    names = [shorten_name(f"{LONG} {seed}") for seed in range(12)]
    assert len({*names}) == 12
    assert all(len(name) <= MAX_NAME for name in names)
    assert names[7].startswith("RTATL with")
    assert names[7].endswith("seed 7")
    assert shorten_name("x" * 200).startswith("xxx")
    assert shorten_name("CLP") == "CLP"
    assert [count_legend_columns(names), count_legend_columns(["a"] * 9), count_legend_columns(["a"])] == [1, 4, 1]


@pytest.mark.parametrize(
    "table",
    [
        F1Table(tuple(make_scores(f"{LONG} {seed}") for seed in range(12))),
        F1Table((make_scores("a", aus=MANY_AUS), make_scores("b", aus=MANY_AUS))),
        F1Table(
            (make_scores("undefined", value=np.nan), make_scores("none", value=0.0), make_scores("all", value=1.0))
        ),
    ],
    ids=("long names", "40 AUs", "undefined"),
)
def test_bars_keep_their_room(table):
    figure = plot_f1_bars(table)
    figure.savefig(io.BytesIO(), format="png", dpi=40)  # a plot without room is a warning, which is an error in tests
    width, height = figure.get_size_inches()
    assert width <= MAX_WIDTH
    place = figure.axes[0].get_position()
    assert place.width > 0.8
    assert place.height * height > 1.8, "inches"
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes)), "the names of AUs overlap"
    assert "nan" not in " ".join(text.get_text() for text in figure.legends[0].get_texts())


def test_a_table_without_rows_is_drawn_as_a_line_that_says_so():
    figure = plot_f1_bars(F1Table(()))
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no rows"]


def test_people_of_whom_nothing_is_defined_have_no_axis_of_negative_f1():
    (axes,) = plot_subject_strips({"a": {"p": np.nan}, LONG: {"p": np.nan}}).axes
    assert [text.get_text() for text in axes.texts] == ["F1 is undefined for everybody"]
    assert axes.get_xlim()[1] >= 100
    assert all(len(label.get_text()) <= MAX_NAME for label in axes.get_yticklabels())


def test_a_page_of_many_rows_draws_the_first_and_folds_its_verdicts():
    a, _ = make_pair(90)
    names = [f"row {number}" for number in range(MAX_LISTED_VERDICTS + 2)]
    methods = [[make_predictions(a.probability, a.au, name=name, identity=a.identity)] for name in names]
    subjects = {f"row {number}": {"p": 0.5, "q": 0.6} for number in range(500)}
    table = F1Table(tuple(make_scores(f"row {number}") for number in range(500)))
    page = ComparisonReport(
        "bp4d", table, comparison=compare_methods(methods, threshold=0.5), subjects=subjects
    ).to_html()
    assert f"<summary>{MAX_LISTED_VERDICTS + 1} verdicts</summary>" in page
    assert f"The first {MAX_DRAWN_ROWS} rows are drawn; the table has {500 - MAX_DRAWN_ROWS} more." in page
    assert f"The first {MAX_DRAWN_ROWS} rows are drawn.</p>" in page
    for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        assert Image.open(io.BytesIO(base64.b64decode(data))).height < 3000
    few = ComparisonReport("bp4d", table, comparison=compare_methods(methods[:3], threshold=0.5)).to_html()
    assert "<details>" not in few


@pytest.mark.skipif(chromium() is None, reason="Chromium is missing: apt-get install chromium")
def test_no_page_is_wider_than_a_narrow_screen(tmp_path):
    wide = ReportTable([Column(f"AU{au}") for au in MANY_AUS], [["100.0"] * 40], title=LONG)
    facts = ReportTable([Column(""), Column("")], [["fingerprint", "f" * 64]])
    pages = {
        "comparison": ComparisonReport(
            "b" * 90, F1Table((make_scores("a", aus=MANY_AUS), make_scores(LONG)))
        ).to_html(),
        "card": render_page(
            "card.html",
            title="n" * 90,
            results=[wide],
            data=wide,
            versions=facts,
            weights=facts,
            spec="k: " + "v" * 300,
        ),
    }
    with browser_page() as page:
        page.set_viewport_size({"width": 400, "height": 800})
        for name, text in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(text)
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
