"""Tables and plots of result files (docs/results/data): a page names one by a line that is only a link to it.

    [table](data/detectors.json)                                     all columns
    [table of "frames/s", "seconds"](data/stream.json)               the first column and these
    [plot of "F1 x 100", "published, BP4D"](data/methods.json)       bars, in the order of the rows
    [plot of "median error" by "detector"](data/detectors.json)      bars of each value of another column, side by side

Under the table of a file, or under its plot where a page has no table of it, stand the commands, the machine and the
versions. A file that is missing or breaks the format is an error. On a
site that shows Markdown as it is, the line is a link to the numbers.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

from benchmarks.results import Cell, InvalidResultError, Results, read_results  # noqa: E402

LINE = re.compile(r"^\[([^\]]+)\]\(([^)\s]*data/[\w.-]+\.json)\)$", re.MULTILINE)
REQUEST = re.compile(r'(?P<kind>table|plot)(?: of (?P<columns>"[^"]+"(?:, "[^"]+")*))?(?: by "(?P<by>[^"]+)")?')
NOT_NOTED = "not noted"
F1 = "F1 x 100"  # with a first column "method", what the page of a method shows


class Bar(NamedTuple):
    """One bar of a plot."""

    label: str
    value: Cell
    text: str


def expand_results(markdown: str, *, page: str, docs: Path) -> str:
    """Replace each line that names a result file. `page` is relative to `docs`. Raises InvalidResultError with the page."""
    tables = {link for request, link in LINE.findall(markdown) if request.startswith("table")}

    def replace(line: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), line[2]))
        try:
            results = read_results(docs / path)
            body = render(line[1], results)
        except (InvalidResultError, KeyError, ValueError) as error:
            message = error.args[0] if error.args else error
            raise InvalidResultError(f"docs/{page}: {line[0]}: {message}") from None
        has_source = line[1].startswith("table") or line[2] not in tables
        return f"{body}\n\n{describe_source(results, link=line[2])}\n" if has_source else f"{body}\n"

    return LINE.sub(replace, markdown)


def render(request: str, results: Results) -> str:
    """The Markdown of what a page asks for. Raises ValueError and KeyError for what the file does not have."""
    words = REQUEST.fullmatch(request)
    if not words:
        raise ValueError('neither [table], [table of "A", "B"], [plot of "A"] nor [plot of "A" by "B"]')
    columns = re.findall(r'"([^"]+)"', words["columns"] or "")
    if words["kind"] == "plot":
        if not columns:
            raise ValueError("which columns? A plot has them in quotes")
        return draw_bars(results, columns, by=words["by"])
    if words["by"]:
        raise ValueError("only a plot has a `by`")
    table = format_table(results, columns or [column.name for column in results.columns[1:]])
    return "\n\n".join([table, *results.notes])


def format_table(results: Results, columns: Sequence[str]) -> str:
    """The first column and these as a table of Markdown; numbers stand to the right."""
    places = [0, *(results.find_column(name) for name in columns)]
    is_text = [all(isinstance(row[place], str | None) for row in results.rows) for place in places]
    lines = [
        f"| {' | '.join(escape_cell(results.columns[place].name) for place in places)} |",
        f"|{'|'.join('---' if text else '---:' for text in is_text)}|",
    ]
    rows = (" | ".join(escape_cell(results.format_cell(row, place)) for place in places) for row in results.rows)
    return "\n".join([*lines, *(f"| {row} |" for row in rows)])


def escape_cell(text: str) -> str:
    """Text of a file for a cell; what it has in backticks becomes code."""
    return (
        text.replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("[", "\\[")
        .replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    )


def draw_bars(results: Results, columns: Sequence[str], *, by: str | None = None) -> str:
    """Bars from 0 in HTML, a group for each row, or for each first cell where `by` tells the bars of a group apart."""
    groups: dict[str, list[Bar]] = {}
    for column in columns:
        place = results.find_column(column)
        other = results.find_column(by) if by else 0
        for row in results.rows:
            label = results.format_cell(row, other) if by else column
            groups.setdefault(results.format_cell(row, 0), []).append(
                Bar(label, row[place], results.format_cell(row, place))
            )
    highs = [sum(split_value(bar.value)) for bars in groups.values() for bar in bars if bar.value is not None]
    if any(split_value(bar.value)[0] < 0 for bars in groups.values() for bar in bars):
        raise ValueError("a plot shows no negative numbers")
    scale = 100 / max([*highs, 1e-9])
    labels = list(dict.fromkeys(bar.label for bars in groups.values() for bar in bars))
    title = f"{', '.join(columns)}{f' by {by}' if by else ''}"
    lines = [f'<figure class="plot"><figcaption>{escape(results.title)}: {escape(title)}</figcaption>']
    if len(labels) > 1:
        keys = (f'<span class="series-{n % 4}">{format_code(label)}</span>' for n, label in enumerate(labels))
        lines.append(f'<div class="key">{"".join(keys)}</div>')
    for name, bars in groups.items():
        lines.append(f'<div class="group"><span class="name">{format_code(name)}</span><div class="bars">')
        lines += [draw_bar(bar, number=labels.index(bar.label) % 4, scale=scale) for bar in bars]
        lines.append("</div></div>")
    return "\n".join([*lines, "</figure>"])


def draw_bar(bar: Bar, *, number: int, scale: float) -> str:
    """A bar with its value, and a line of a standard deviation to both sides where there is one."""
    value, deviation = split_value(bar.value)
    low, high = max(0.0, value - deviation), value + deviation
    spread = f'<i style="left:{low * scale:.1f}%;width:{(high - low) * scale:.1f}%"></i>' if deviation else ""
    return (
        f'<div class="bar series-{number}" title="{escape(bar.label)}"><span class="track">'
        f'<b style="width:{value * scale:.1f}%"></b>{spread}</span><span class="value">{escape(bar.text)}</span></div>'
    )


def split_value(value: Cell) -> tuple[float, float]:
    """Value and standard deviation; 0 where there is none. Raises ValueError for text."""
    if isinstance(value, str):
        raise ValueError(f'"{value}" is no number to plot')  # noqa: TRY004 - a value of the file
    return (float(value[0]), float(value[1])) if isinstance(value, tuple) else (float(value or 0), 0.0)


def format_code(text: str) -> str:
    """Text as HTML, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def describe_source(results: Results, *, link: str) -> str:
    """How the numbers were measured, as a paragraph of HTML with a link to the file."""
    commands = ", then ".join(f"<code>{escape(command)}</code>" for command in results.commands)
    date = f"{results.date:%Y-%m-%d}" if results.date else f"date {NOT_NOTED}"
    parts = [commands, *describe_machine(results), describe_versions(results), date]
    if results.commit:
        parts.append(f"commit {results.commit}")
    return f'<p class="source" markdown="0">{"; ".join(parts)}; <a href="{link}">the numbers</a></p>'


def describe_machine(results: Results) -> Iterator[str]:
    """Yield the parts of the machine in words."""
    machine = results.machine
    parts = [machine.cpu and escape(machine.cpu), count(machine.cores, "core")]
    parts.append(f"{machine.memory_gb:g} GB" if machine.memory_gb else None)
    parts.append("no GPU" if machine.gpu == "none" else machine.gpu and escape(machine.gpu))
    parts.append(count(machine.threads, "thread"))
    parts.append(f"load {machine.load:g}" if machine.load is not None else None)
    yield ", ".join(filter(None, parts)) or f"machine {NOT_NOTED}"
    if machine.note:
        yield escape(machine.note)


def count(number: int | None, noun: str) -> str | None:
    """'1 core', '2 cores'; None for None."""
    return None if number is None else f"{number} {noun}{'' if number == 1 else 's'}"


def describe_versions(results: Results) -> str:
    """'python 3.11.2, torch 2.14.1'."""
    return (
        escape(", ".join(f"{name} {version}" for name, version in results.versions.items())) or f"versions {NOT_NOTED}"
    )


class Measurement(NamedTuple):
    """The F1 of a method in a result file."""

    title: str  # of the file
    f1: str  # as text, times 100
    commands: tuple[str, ...]


def find_measurements(names: set[str], folder: Path, *, normalize: Callable[[str], str]) -> Iterator[Measurement]:
    """Yield the F1 of a method from each kept file of F1 by method; `names` are what it is called, normalized."""
    for path in sorted(folder.glob("*.json")):
        results = read_results(path)
        columns = [column.name for column in results.columns]
        if columns[0] != "method" or F1 not in columns:
            continue
        for row in results.rows:
            if normalize(results.format_cell(row, 0)) in names:
                name = results.format_cell(row, 0)
                yield Measurement(
                    f"{results.title}: {name}", results.format_cell(row, columns.index(F1)), results.commands
                )
