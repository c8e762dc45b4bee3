"""The one table, in each of its forms."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from facscale.report.table import Column, ReportTable


@pytest.fixture
def table():
    columns = [Column("method", align="left"), Column("F1", number_format=".1f"), Column("note")]
    rows = [["a [b]", 40.04, "x, <y>"], ["c", float("nan"), None], ["d", 41.0, "z"]]
    return ReportTable(columns, rows, title="F1 & more", caption="below", notes=["d is best"], should_mark_best=True)


def test_markdown_aligns_and_lists_notes(table):
    assert table.to_markdown().splitlines() == [
        "| method | F1 | note |",
        "| --- | ---: | ---: |",
        "| a [b] | 40.0 | x, <y> |",
        "| c | - | - |",
        "| d | 41.0 | z |",
        "",
        "- d is best",
    ]


def test_csv_leaves_undefined_cells_empty(table):
    assert table.to_csv() == 'method,F1,note\na [b],40.0,"x, <y>"\nc,,\nd,41.0,z\n'


def test_a_column_without_format_writes_all_digits():
    assert ReportTable([Column("x")], [[0.1 + 0.2], [3]]).to_csv() == "x\n0.30000000000000004\n3\n"


def test_a_table_without_rows_says_so_except_to_programs():
    table = ReportTable([Column("method"), Column("F1")], [], title="F1", should_mark_best=True)
    console = Console(width=80, file=io.StringIO())
    console.print(table.to_rich())
    assert "no rows" in console.file.getvalue()
    assert table.to_markdown().splitlines() == ["| method | F1 |", "| ---: | ---: |", "| no rows |  |"]
    assert '<tr><td colspan="2">no rows</td></tr>' in table.to_html()
    assert table.to_csv() == "method,F1\n"


def test_html_is_escaped(table):
    html = table.to_html()
    assert "<caption>F1 &amp; more</caption>" in html
    assert "<th>method</th><th>F1</th><th>note</th>" in html
    assert "<td>a [b]</td><td>40.0</td><td>x, &lt;y&gt;</td>" in html


def test_the_terminal_marks_the_best_and_takes_names_literally(table):
    rich = table.to_rich()
    assert [str(cell.style) for cell in rich.columns[1].cells] == ["", "", "bold"]
    console = Console(width=80, file=io.StringIO())
    console.print(rich)
    text = console.file.getvalue()
    assert all(words in text for words in ("F1 & more", "a [b]", "d is best", "below"))
    assert "method" not in text
