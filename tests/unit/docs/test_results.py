"""Result files of benchmarks: the format, what the documentation makes of them, and every file that is kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import results
from benchmarks.results import InvalidResultError, ResultWriter, read_results
from conftest import ROOT
from doc_hooks import load_hook

KEPT = sorted(results.KEPT.glob("*.json"))
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def pages():
    return load_hook("result_pages")


@pytest.fixture
def docs(tmp_path):
    """A folder of documentation with one result file."""
    with ResultWriter(
        tmp_path / "data" / "speed.json",
        title="Speed",
        columns={"way": None, "detector": None, "frames/s": 0, "error": 2},
        threads=2,
        commands=["python tests/benchmarks/speed.py"],
        notes=["Of one run."],
    ) as table:
        table.add("`plain`", "a", 1090, (0.9, 0.05))
        table.add("`plain`", "b", np.float32(500), float("nan"))
        table.add("a | <b>", "a", 0, 0)
    return tmp_path


def test_every_benchmark_can_write_its_table():
    scripts = {path.stem: path.read_text() for path in results.Path(results.__file__).parent.glob("*.py")}
    without = {name for name, text in scripts.items() if "add_out_option(parser)" not in text}
    assert without == {"all", "results", "stream_rivals"}  # the first calls the others, the last is a part of stream.py


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_every_kept_file_has_the_format_and_is_written_as_the_benchmarks_write_it(path):
    assert read_results(path).to_json() == path.read_text()


def test_every_kept_file_is_shown(pages):
    shown = {link.rpartition("/")[2] for page in PAGES for _, link in pages.LINE.findall(page.read_text())}
    assert shown >= {path.name for path in KEPT}


def test_every_page_shows_files_that_exist_and_columns_that_they_have(pages):
    for page in PAGES:
        pages.expand_results(page.read_text(), page=page.relative_to(ROOT / "docs").as_posix(), docs=ROOT / "docs")


def test_what_is_written_is_read(docs):
    content = read_results(docs / "data" / "speed.json")
    assert content.rows == (("`plain`", "a", 1090, (0.9, 0.05)), ("`plain`", "b", 500.0, None), ("a | <b>", "a", 0, 0))
    assert content.machine.cores
    assert content.machine.threads == 2
    assert content.versions["python"] == sys.version.split()[0]
    assert {*content.versions} >= {"numpy"}
    assert content.notes == ("Of one run.",)


def test_a_benchmark_that_breaks_leaves_its_rows_but_no_file_that_can_be_shown(tmp_path):
    path = tmp_path / "broken.json"
    with pytest.raises(ZeroDivisionError), ResultWriter(path, title="Broken", columns={"a": 0}) as table:
        [table.add(1 // divisor) for divisor in (1, 0)]
    assert json.loads(path.read_text())["rows"] == [[1]]
    with pytest.raises(InvalidResultError, match="has not ended"):
        read_results(path)


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ResultWriter(None, title="Nowhere", columns={"a": 0}) as table:
        table.add(1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [[1, 2], [3]]}, "row 2 has 1 cells for 2 columns"),
        ({"columns": [{"name": "a"}, {"name": "a"}]}, "columns of the same name: a"),
        ({"rows": []}, "rows: Tuple should have at least 1 item"),
        ({"commands": []}, "commands: Tuple"),
        ({"colums": []}, "colums: Extra inputs"),
        ({"rows": [[True, 2]]}, "rows.0.0"),
        ({"date": "yesterday"}, "date: Input should be a valid date"),
        ({"machine": {"cores": 0}}, "machine.cores: Input should be greater"),
    ],
)
def test_a_file_that_breaks_the_format_is_refused_with_the_place(tmp_path, change, message):
    content = {"title": "t", "commands": ["c"], "machine": {}, "versions": {}}
    content |= {"columns": [{"name": "a"}, {"name": "b"}], "rows": [[1, 2]]}
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    read_results(path)
    path.write_text(json.dumps(content | change))
    with pytest.raises(InvalidResultError, match=rf"file\.json: .*{re.escape(message)}"):
        read_results(path)


def test_a_page_shows_all_columns_or_those_that_it_names(pages, docs):
    shown = pages.expand_results(
        'Before\n\n[table](data/speed.json)\n\n[table of "error"](data/speed.json)', page="p.md", docs=docs
    )
    assert "| way | detector | frames/s | error |\n|---|---|---:|---:|\n" in shown
    assert (
        "| `plain` | a | 1,090 | 0.90\xa0±\xa00.05 |\n| `plain` | b | 500 | - |\n| a \\| &lt;b> | a | 0 | 0.00 |"
        in shown
    )
    assert "| way | error |\n|---|---:|\n| `plain` | 0.90\xa0±\xa00.05 |" in shown
    assert "Of one run." in shown
    assert "<code>python tests/benchmarks/speed.py</code>; " in shown
    assert "2 threads" in shown
    assert f"python {sys.version.split()[0]}" in shown


def test_bars_are_as_long_as_their_values(pages, docs):
    shown = pages.expand_results('[plot of "frames/s" by "detector"](data/speed.json)', page="p.md", docs=docs)
    assert re.findall(r"<b style=\"width:([\d.]+)%\"", shown) == ["100.0", "45.9", "0.0"]
    assert '<span class="series-1">b</span>' in shown
    assert "a | &lt;b&gt;" in shown
    spread = pages.expand_results('[plot of "error"](data/speed.json)', page="p.md", docs=docs)
    assert 'style="left:89.5%;width:10.5%"' in spread


def test_the_source_stands_once_under_table_and_plot(pages, docs):
    plot, table = '[plot of "error"](data/speed.json)', "[table](data/speed.json)"
    for lines in ([plot], [table], [plot, table]):
        assert pages.expand_results("\n\n".join(lines), page="p.md", docs=docs).count('class="source"') == 1


def test_all_zeros_can_be_drawn(pages, tmp_path):
    with ResultWriter(tmp_path / "data" / "zero.json", title="Zero", columns={"a": None, "b": 0}) as table:
        table.add("x", 0)
        table.add("y", None)
    assert "width:0.0%" in pages.expand_results('[plot of "b"](data/zero.json)', page="p.md", docs=tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[table](data/sped.json)", "there is no such file"),
        ('[table of "eror"](data/speed.json)', 'no column "eror"; there are way, detector'),
        ("[tabel](data/speed.json)", r"neither \[table\]"),
        ("[plot](data/speed.json)", "which columns"),
        ('[plot of "detector"](data/speed.json)', '"a" is no number to plot'),
        ('[table of "error" by "detector"](data/speed.json)', "only a plot"),
    ],
)
def test_a_line_that_cannot_be_shown_is_an_error_that_names_the_page(pages, docs, line, message):
    with pytest.raises(InvalidResultError, match=rf"docs/p\.md: .*{message}"):
        pages.expand_results(f"Text\n\n{line}\n", page="p.md", docs=docs)


def test_the_page_of_a_method_has_what_was_measured_beside_what_is_published():
    method_pages = load_hook("method_pages")
    lines = list(method_pages.describe_f1("clp", results.KEPT))
    assert any(line.startswith("| BP4D | 62.4 | CLP |") for line in lines)
    (row,) = (row for row in read_results(results.KEPT / "demo_methods.json").rows if row[0] == "CLP")
    mean, deviation = row[1]
    assert any(line.startswith(f"| rendered faces | {mean:.1f} ± {deviation:.1f} | measured: ") for line in lines)
    assert any("MoCo v2" in line for line in method_pages.describe_f1("moco", results.KEPT))


def test_the_readme_has_the_figures_of_the_demo():
    text = " ".join((ROOT / "README.md").read_text().split())
    content = read_results(results.KEPT / "demo.json")
    figures = [content.format_cell(row, content.find_column("mean")) for row in content.rows]
    match = re.search(
        r"CLP reaches a mean F1 of ([\d.]+ ± [\d.]+) .*?random encoder ([\d.]+ ± [\d.]+), .*?([\d.]+ ± \d+\.\d+)", text
    )
    assert match
    assert list(match.groups()) == figures


def test_the_means_of_the_demo_are_those_of_its_seeds():
    for _, *seeds, (mean, deviation) in read_results(results.KEPT / "demo.json").rows:
        assert mean == pytest.approx(np.mean(seeds), abs=0.051)
        assert deviation == pytest.approx(np.std(seeds, ddof=1), abs=0.051)


def test_a_csv_file_becomes_a_result_file(tmp_path):
    (tmp_path / "table.csv").write_text('row,mean,n\n"CLP, frozen",35.6 ± 0.8,3\nrandom,nan,12\n')
    script, out = ROOT / "tests" / "benchmarks" / "results.py", tmp_path / "table.json"
    command = [
        sys.executable,
        str(script),
        "--title",
        "T",
        "--command",
        "make demo",
        "--csv",
        "table.csv",
        "--out",
        str(out),
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    content = read_results(out)
    assert content.rows == (("CLP, frozen", (35.6, 0.8), 3), ("random", None, 12))
    assert [column.digits for column in content.columns] == [None, 1, None]
    assert content.commands == ("make demo",)
    assert "ray" in content.versions
