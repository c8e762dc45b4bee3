"""`facscale published`."""

from __future__ import annotations

import csv as csvfile
import io
from collections.abc import Mapping, Sequence
from itertools import groupby

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from facscale.errors import UserError
from facscale.report.published import Line, contradictions, papers, published, repeats, sources
from facscale.report.published import misprints as all_misprints
from facscale.report.published.check import AVERAGE, misprint
from facscale.report.published.lines import Heading, shown
from facscale.report.published.tables import aliases
from facscale.spec import nearest

COUNTS = ("rows", "numbers", "misprints")
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def show_published(data: str | None, *, paper: str | None, method: str | None, misprints: bool, csv: bool) -> None:
    """The rows asked for, as tables; the list of tables where nothing is asked for.

    Raises UserError for a name that no table knows.
    """
    lines = _found(data, paper=paper, method=method)
    console = Console(highlight=False, markup=False)
    if csv:
        click.echo(flat(lines), nl=False)
    elif misprints:
        for fault in faults(lines):
            console.print(fault)
    elif data or paper or method:
        for file, rows in groupby(lines, lambda line: line.file):
            _show(console, file, list(rows))
    else:
        console.print(_whole(console, overview()))


def faults(lines: Sequence[Line]) -> list[str]:
    """What is misprinted in these rows, and where other rows contradict or repeat them."""
    within = set(lines)
    wrong = [str(found) for line in lines if (found := misprint(line))]
    against = [
        str(found)
        for found in contradictions()
        if any(line in within for printed in found.numbers.values() for line, _ in printed)
    ]
    return [*wrong, *against, *(str(found) for found in repeats() if within.intersection(found.lines))]


def footnotes(lines: Sequence[Line]) -> dict[Line, str]:
    """What is to be said of rows: what is misprinted, and what the index notes."""
    told = {line: fault.told if (fault := misprint(line)) else line.source.notes.get(line.method, "") for line in lines}
    return {line: text for line, text in told.items() if text}


def table(lines: Sequence[Line], *, marks: Mapping[Line, str]) -> Table:
    """Rows of one published table, sorted by who learned from what; marks at what is misprinted, else at the name."""
    source, headings = lines[0].source, _headings(lines)
    several = not source.data and any(line.data for line in lines)
    result = Table(box=SIMPLE)
    for heading in ("", *([""] if several else []), *source.settings):
        result.add_column(heading, no_wrap=True)
    for what in headings:
        result.add_column(shown(what), justify="right", no_wrap=True)
    for kind, rows in groupby(lines, lambda line: line.kind):
        result.add_section()
        if len(source.kinds) > 1:
            result.add_row(kind, style="dim")
        for line in rows:
            mark, wrong = marks.get(line, ""), misprint(line)
            settings = (*([line.data] if several else []), *(value for _, value in line.settings))
            numbers = (_cell(line, what, mark if wrong and wrong.what == what else "") for what in headings)
            result.add_row(f"{line.method}{'' if wrong else mark}", *settings, *numbers)
    return result


def overview() -> Table:
    """One line a published table."""
    wrong = [fault.line.file for fault in all_misprints()]
    result = Table(box=SIMPLE)
    for heading in ("paper", "table", "data", "numbers are", "rows", "numbers", "misprints"):
        result.add_column(heading, no_wrap=True, justify="right" if heading in COUNTS else "left")
    for file, rows in groupby(published(), lambda line: line.file):
        lines, source = list(rows), sources()[file]
        data = ", ".join(dict.fromkeys(line.data for line in lines if line.data))
        paper, place = source.place.split(", ", 1)
        counts = (len(lines), sum(map(numbers, lines)), wrong.count(file) or "")
        result.add_row(paper, place, data, source.metric, *map(str, counts))
    return result


def numbers(line: Line) -> int:
    """How many stand in a row, its average among them."""
    return len(line.cells) + (line.printed is not None)


def flat(lines: Sequence[Line]) -> str:
    """CSV: where each row stands and what it is, then its numbers as printed, and the mean that they give."""
    headings = [heading for heading in _headings(lines) if heading != AVERAGE]  # it comes last, beside the mean
    out = io.StringIO()
    writer = csvfile.writer(out, lineterminator="\n")
    told = ["paper", "table", "data", "labels", "kind", "metric", "unit", "method", "reference", "quoted", "settings"]
    writer.writerow([*told, *map(shown, headings), AVERAGE, "mean"])
    for line in lines:
        source, mean = line.source, line.mean
        where = [
            line.paper,
            source.place.split(", ", 1)[1],
            line.data,
            line.labels,
            line.kind,
            line.metric,
            source.unit,
        ]
        what = [line.method, line.reference, "yes" if line.quoted else "", "; ".join(map("=".join, line.settings))]
        cells = [line.cells.get(heading, "") for heading in headings]
        average = "" if line.printed is None else line.printed
        writer.writerow([*where, *what, *cells, average, "" if mean is None else f"{mean:.3f}"])
    return out.getvalue()


def _found(data: str | None, *, paper: str | None, method: str | None) -> list[Line]:
    lines = published()
    sets = {line.data for line in lines if line.data}
    methods = {*aliases(), *(line.method for line in lines)}
    for what, name, known in (("data set", data, sets), ("paper", paper, papers()), ("method", method, methods)):
        one = {"data": data} if what == "data set" else {what: name}
        if name and not published(**one):
            raise UserError(f'no published table knows the {what} "{name}"{nearest(name, sorted(known))}')
    found = published(data, paper=paper, method=method)
    if not found:
        asked = " ".join(filter(None, [data, paper, method]))
        raise UserError(f"no published row is all of this: {asked}; ask for less")
    return found


def _headings(lines: Sequence[Line]) -> list[Heading]:
    headings = dict.fromkeys(heading for line in lines for heading in line.cells)
    aus = sorted(heading for heading in headings if isinstance(heading, int))
    average = [AVERAGE] if any(line.printed is not None for line in lines) else []
    return [*aus, *(heading for heading in headings if isinstance(heading, str)), *average]


def _cell(line: Line, heading: Heading, mark: str) -> str:
    number = line.printed if heading == AVERAGE else line.cells.get(heading)
    return "-" if number is None else f"{number}{mark}"


def _show(console: Console, file: str, lines: Sequence[Line]) -> None:
    source, told = sources()[file], footnotes(lines)
    marks = {line: str(number).translate(RAISED) for number, line in enumerate(told, 1)}
    what = f"{source.metric}{f' on {source.data}' if source.data else ''}{f', {source.unit}' if source.unit else ''}"
    console.print(f"{source.place}: {what}", style="bold")
    console.print(_whole(console, table(lines, marks=marks)))
    for text in (source.protocol, *source.remarks, *(f"{marks[line]} {line.method}: {told[line]}" for line in told)):
        if text:
            console.print(text)
    console.print()


def _whole(console: Console, table: Table) -> Table:
    # A narrow terminal may break lines, but no digit is ever left out.
    console.width = max(console.width, console.measure(table, options=console.options.update_width(1000)).maximum)
    return table
