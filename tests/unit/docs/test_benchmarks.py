"""The command that runs the benchmarks: what it calls exists, and what it prints are the ratios of their tables."""

from __future__ import annotations

import re

import pytest

from benchmarks import all as command
from benchmarks.all import BENCHMARKS, Benchmark, describe, list_ratios
from benchmarks.results import ResultWriter, read_results


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_scripts_have_the_options_and_the_columns(benchmark):
    script, *words = f"{benchmark.arguments} {benchmark.quick}".split()
    text = (command.HERE / script).read_text()
    for option in {word for word in words if word.startswith("--")}:
        assert f'"{option}"' in text or "{name}" in text, option  # probe.py makes its options of a table
    for column in (*benchmark.key, benchmark.ratio, benchmark.of_first):
        assert f'"{column}"' in text or not column


def test_a_table_is_printed_as_ratios(tmp_path):
    columns = {"program": None, "threads": 0, "s": 1, "of plain": 2}
    with ResultWriter(tmp_path / "step.json", title="Step", columns=columns, threads=3) as table:
        table.add("plain", 1, 4.0, 1.0)
        table.add("facscale", 2, 1.0, 0.25)
        table.add("broken", 2, None, None)
    results = read_results(tmp_path / "step.json")
    plain = Benchmark("step", "step.py", "", ("program",))
    assert list_ratios(plain, results)[1] == ("facscale", "threads 2, s 1.0, of plain 0.25")
    divided = list_ratios(plain._replace(of_first="s", key=("program", "threads")), results)
    assert [text.split()[0] for _, text in divided] == ["1", "0.25", "-"]
    assert divided[1][0] == "facscale, 2"
    given = plain._replace(ratio="of plain")
    assert [text.split()[0] for _, text in list_ratios(given, results)] == ["1.00", "0.25", "-"]
    assert re.match(r"Step \(3 threads of \d+ cores, GPU: none; python 3[\d.]+, .*torch ", describe(given, results))
    with pytest.raises(KeyError, match="no column"):
        list_ratios(plain._replace(ratio="frames/s"), results)
