"""Files and functions stay small enough to be read at once."""

from __future__ import annotations

import ast

from conftest import ROOT

SOURCES = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "platform").rglob("*.py")}
LINES, OF_A_FUNCTION = 300, 40


def test_files_are_short():
    lines = {name: len(text.splitlines()) for name, text in SOURCES.items()}
    assert lines
    assert {name: count for name, count in lines.items() if count > LINES} == {}


def test_functions_are_short():
    lines = {f"{name}: {node.name}": node.end_lineno - node.lineno + 1 for name, node in functions()}
    assert lines
    assert {name: count for name, count in lines.items() if count > OF_A_FUNCTION} == {}


def functions():
    for name, text in SOURCES.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node
