"""`facscale published`: the tables that the papers print."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Mapping, Sequence
from itertools import groupby

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from facscale.errors import UserError
from facscale.report.published import (
    PublishedResult,
    find_contradictions,
    find_misprints,
    find_repeats,
    find_results,
    load_papers,
    load_tables,
)
from facscale.report.published.check import AVERAGE, find_misprint
from facscale.report.published.results import Heading, format_heading
from facscale.report.published.tables import load_aliases
from facscale.spec import suggest_nearest

NUMERIC = ("rows", "numbers", "misprints")  # columns of the overview
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
CSV_COLUMNS = (
    *("paper", "table", "data", "labels", "kind", "metric", "unit"),
    *("method", "reference", "quoted", "settings"),
)


def show_published(data: str | None, *, paper: str | None, method: str | None, misprints: bool, csv: bool) -> None:
    """Print the selected rows as tables, as CSV, or only their misprints; without a selection, the list of tables.

    Raises UserError for a name that is in no table.
    """
    rows = select_rows(data, paper=paper, method=method)
    console = Console(highlight=False, markup=False)
    if csv:
        click.echo(build_csv(rows), nl=False)
    elif misprints:
        for fault in list_faults(rows):
            console.print(fault)
    elif data or paper or method:
        for file, file_rows in groupby(rows, lambda row: row.file):
            show_table(console, file, list(file_rows))
    else:
        print_unclipped(console, build_overview())


def select_rows(data: str | None, *, paper: str | None, method: str | None) -> list[PublishedResult]:
    """The published rows of a data set, paper and method. Raises UserError if there are none."""
    rows = find_results()
    names = {
        "data set": (data, {row.data for row in rows if row.data}),
        "paper": (paper, load_papers()),
        "method": (method, {*load_aliases(), *(row.method for row in rows)}),
    }
    for kind, (name, candidates) in names.items():
        if name and not find_results(**{"data" if kind == "data set" else kind: name}):
            raise UserError(f'no published table has the {kind} "{name}"{suggest_nearest(name, sorted(candidates))}')
    selected = find_results(data, paper=paper, method=method)
    if not selected:
        words = " ".join(filter(None, [data, paper, method]))
        raise UserError(f"no published row matches all of: {words}; leave one of them out")
    return selected


def list_faults(rows: Sequence[PublishedResult]) -> list[str]:
    """The misprints in these rows, and where other rows contradict or repeat them; a sentence each."""
    selected = set(rows)
    misprints = [misprint for row in rows if (misprint := find_misprint(row))]
    contradictions = [
        contradiction
        for contradiction in find_contradictions()
        if any(row in selected for numbers in contradiction.numbers.values() for row, _ in numbers)
    ]
    repeats = [repeat for repeat in find_repeats() if selected.intersection(repeat.results)]
    return [str(fault) for fault in (*misprints, *contradictions, *repeats)]


def build_overview() -> Table:
    """A row for each published table: where it is printed, its data set and metric, its size and misprints."""
    misprints = [misprint.result.file for misprint in find_misprints()]
    table = Table(box=SIMPLE)
    for heading in ("paper", "table", "data", "numbers are", "rows", "numbers", "misprints"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in NUMERIC else "left")
    for file, file_rows in groupby(find_results(), lambda row: row.file):
        rows, source = list(file_rows), load_tables()[file]
        data = ", ".join(dict.fromkeys(row.data for row in rows if row.data))
        paper, place = source.place.split(", ", 1)
        counts = (len(rows), sum(map(count_numbers, rows)), misprints.count(file) or "")
        table.add_row(paper, place, data, source.metric, *map(str, counts))
    return table


def count_numbers(row: PublishedResult) -> int:
    """How many numbers are printed in a row, its average included."""
    return len(row.cells) + (row.printed is not None)


def show_table(console: Console, file: str, rows: Sequence[PublishedResult]) -> None:
    """Print the rows of one published table with its title, protocol, remarks and footnotes."""
    source, footnotes = load_tables()[file], collect_footnotes(rows)
    marks = {row: str(number).translate(SUPERSCRIPTS) for number, row in enumerate(footnotes, 1)}
    data, unit = f" on {source.data}" if source.data else "", f", {source.unit}" if source.unit else ""
    console.print(f"{source.place}: {source.metric}{data}{unit}", style="bold")
    print_unclipped(console, build_table(rows, marks=marks))
    notes = (f"{marks[row]} {row.method}: {text}" for row, text in footnotes.items())
    for text in filter(None, (source.protocol, *source.remarks, *notes)):
        console.print(text)
    console.print()


def collect_footnotes(rows: Sequence[PublishedResult]) -> dict[PublishedResult, str]:
    """The footnote of each row that has one: its misprint, else the note about its method in the index."""
    footnotes = {
        row: misprint.message if (misprint := find_misprint(row)) else row.source.notes.get(row.method, "")
        for row in rows
    }
    return {row: text for row, text in footnotes.items() if text}


def build_table(rows: Sequence[PublishedResult], *, marks: Mapping[PublishedResult, str]) -> Table:
    """Rows of one published table in sections by kind of training.

    `marks` are the footnote marks of rows: at the misprinted number if there is one, else at the method's name.
    """
    source, headings = rows[0].source, list_headings(rows)
    has_data_column = not source.data and any(row.data for row in rows)
    table = Table(box=SIMPLE)
    for title in ("", *([""] if has_data_column else []), *source.settings):
        table.add_column(title, no_wrap=True)
    for heading in headings:
        table.add_column(format_heading(heading), justify="right", no_wrap=True)
    for kind, kind_rows in groupby(rows, lambda row: row.kind):
        table.add_section()
        if len(source.kinds) > 1:
            table.add_row(kind, style="dim")
        for row in kind_rows:
            mark, misprint = marks.get(row, ""), find_misprint(row)
            settings = (*([row.data] if has_data_column else []), *(value for _, value in row.settings))
            numbers = (
                format_number(row, heading, mark if misprint and misprint.heading == heading else "")
                for heading in headings
            )
            table.add_row(f"{row.method}{'' if misprint else mark}", *settings, *numbers)
    return table


def list_headings(rows: Sequence[PublishedResult]) -> list[Heading]:
    """The columns of these rows: AUs in order, then other headings, then the average."""
    headings = dict.fromkeys(heading for row in rows for heading in row.cells)
    aus = sorted(heading for heading in headings if isinstance(heading, int))
    average = [AVERAGE] if any(row.printed is not None for row in rows) else []
    return [*aus, *(heading for heading in headings if isinstance(heading, str)), *average]


def format_number(row: PublishedResult, heading: Heading, mark: str) -> str:
    """A number as printed, with its footnote mark; "-" if the paper prints none."""
    number = row.printed if heading == AVERAGE else row.cells.get(heading)
    return "-" if number is None else f"{number}{mark}"


def build_csv(rows: Sequence[PublishedResult]) -> str:
    """Rows as CSV: where and what each is, its numbers as printed, its printed average, and the mean of the numbers."""
    headings = [heading for heading in list_headings(rows) if heading != AVERAGE]  # it comes last, beside the mean
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *map(format_heading, headings), AVERAGE, "mean"])
    for row in rows:
        place = row.source.place.split(", ", 1)[1]
        table = [row.paper, place, row.data, row.labels, row.kind, row.metric, row.source.unit]
        settings = "; ".join(map("=".join, row.settings))
        method = [row.method, row.reference, "yes" if row.is_quoted else "", settings]
        numbers = [row.cells.get(heading, "") for heading in headings]
        average = "" if row.printed is None else row.printed
        mean = "" if row.mean is None else f"{row.mean:.3f}"
        writer.writerow([*table, *method, *numbers, average, mean])
    return out.getvalue()


def print_unclipped(console: Console, table: Table) -> None:
    """Print a table without leaving out a digit: a terminal that is too narrow may break its lines."""
    console.width = max(console.width, console.measure(table, options=console.options.update_width(1000)).maximum)
    console.print(table)
