"""The tutorials as notebooks and as shell scripts, from their pages: what a reader downloads, and what CI runs.

A page consists of text and cells. A fence `sh` is commands; `python` is a program, or, with a title, a file of that path;
a fence of any other language with a title is a file, too. `console` is a command with its output, which is run as well.
Everything else stays text.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```\n?", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')
SETUP = '''import os, subprocess


def export(name, value):
    """Set a variable of the environment to what a shell makes of `value`."""
    command = ["bash", "-c", f'value={value}; printf %s "$value"']
    os.environ[name] = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout'''


class Cell(NamedTuple):
    """A part of a page: text, or something that is run."""

    kind: str  # text, sh, python or file
    text: str
    path: str = ""  # of a file


def read_cells(markdown: str) -> Iterator[Cell]:
    """Yield the parts of a page in their order; text that is empty is left out."""
    end = 0
    for fence in FENCE.finditer(markdown):
        _, language, options, body = fence.groups()
        title, body = TITLE.search(options), textwrap.dedent(body).rstrip("\n")
        if title:
            cell = Cell("file", body, title[1])
        elif language in ("sh", "python"):
            cell = Cell(language, body)
        elif language == "console":
            cell = Cell("sh", "\n".join(line[2:] for line in body.splitlines() if line.startswith("$ ")))
        else:
            continue
        if text := markdown[end : fence.start()].strip():
            yield Cell("text", text)
        yield cell
        end = fence.end()
    if text := markdown[end:].strip():
        yield Cell("text", text)


def build_notebook(markdown: str) -> str:
    """The JSON of a Jupyter notebook (nbformat 4.5) of a page; its links are left out, for they lead to other pages."""
    cells = [make_cell("code", SETUP, number=0)]
    for cell in read_cells(markdown):
        if cell.kind == "text":
            cells.append(make_cell("markdown", remove_links(cell.text), number=len(cells)))
        else:
            cells += [make_cell("code", code, number=len(cells) + n) for n, code in enumerate(write_code(cell))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def make_cell(kind: str, source: str, *, number: int) -> dict[str, Any]:
    """One cell of a notebook."""
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def remove_links(text: str) -> str:
    """Text with the words of its links and pictures alone; links to sites stay."""
    return re.sub(r"!?\[([^\]]*)\]\((?![a-z]+:)[^)]*\)", r"\1", text)


def write_code(cell: Cell) -> Iterator[str]:
    """Yield the code of a cell: variables and folders are the notebook's own, or they would end with each shell."""
    if cell.kind == "file":
        yield f"%%writefile {cell.path}\n{cell.text}"
    elif cell.kind == "python":
        yield cell.text
    else:
        yield from write_shell_code(cell.text)


def write_shell_code(text: str) -> Iterator[str]:
    """Yield code for the lines of a shell."""
    lines: list[str] = []
    for line in text.splitlines():
        exported, moved = re.fullmatch(r"export (.+)", line), re.fullmatch(r"cd (\S+)", line)
        if (exported or moved) and lines:
            yield "%%bash\n" + "\n".join(lines)
            lines = []
        if exported:
            pairs = re.findall(r'(\w+)=((?:\$\([^)]*\)|"[^"]*"|\S)+)', exported[1])
            yield "\n".join(f"export({name!r}, {value!r})" for name, value in pairs)
        elif moved:
            yield f"%cd {moved[1]}"
        else:
            lines.append(line)
    if lines:
        yield "%%bash\n" + "\n".join(lines)


def build_script(markdown: str) -> str:
    """A bash script of all cells of a page; before each it prints a line `### cell N`, and it ends with the first that fails."""
    parts = ["set -euo pipefail"]
    for number, cell in enumerate(cell for cell in read_cells(markdown) if cell.kind != "text"):
        parts.append(f"echo '### cell {number}'")
        if cell.kind == "file":
            parts.append(f"cat > {cell.path} <<'END-OF-FILE'\n{cell.text}\nEND-OF-FILE")
        elif cell.kind == "python":
            parts.append(f"python - <<'END-OF-FILE'\n{cell.text}\nEND-OF-FILE")
        else:
            parts.append(cell.text)
    return "\n".join(parts) + "\n"
