"""Pages from templates."""

from __future__ import annotations

import tomllib

import pytest
from jinja2 import UndefinedError

from conftest import ROOT
from facscale.report.pages import render_page
from facscale.report.table import Column, ReportTable

FOLDER = ROOT / "platform" / "facscale" / "report"


def test_values_are_escaped_and_tables_are_not_escaped_twice():
    table = ReportTable([Column("")], [["<i>"]])
    page = render_page(
        "sweep.html",
        title="a & b",
        count=1,
        best="t0",
        objective="f1",
        value="0.5",
        plots=["<svg/>"],
        trials=table,
        comparisons=[ReportTable([Column("")], [["c"]], notes=["better by <1"])],
        spec="<x>",
    )
    assert page.count("a &amp; b") == 2
    assert "<td>&lt;i&gt;</td>" in page
    assert "<td>c</td>" in page
    assert "<b>better by &lt;1</b>" in page
    assert "<svg/>" in page
    assert "<pre>&lt;x&gt;</pre>" in page


def test_a_forgotten_value_is_an_error():
    with pytest.raises(UndefinedError, match="'best' is undefined"):
        render_page("sweep.html", title="", count=1)


def test_the_templates_belong_to_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in patterns["facscale.report"] for path in FOLDER.glob(pattern)}
    assert packed == set(FOLDER.rglob("*.html")) != set()
