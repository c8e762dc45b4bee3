"""The one table of the platform: for the terminal (rich), as Markdown, as CSV and as HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from facscale.report.pages import render_page

Cell = str | float | None  # None and nan: undefined
UNDEFINED = "-"
NOTHING = "no rows"  # the only line of a table that has none, except as CSV


@dataclass(frozen=True)
class Column:
    """A heading, and how the cells below it look."""

    heading: str
    align: Literal["left", "right"] = "right"
    number_format: str = ""  # of numbers, as in f"{value:.1f}"; "" writes all digits
    can_wrap: bool = True  # whether a narrow terminal may break a cell's line

    def format(self, cell: Cell, *, undefined: str) -> str:
        """The text of a cell; text stays as it is."""
        if isinstance(cell, str):
            return cell
        return undefined if cell is None or np.isnan(cell) else format(cell, self.number_format)


@dataclass(frozen=True)
class ReportTable:
    """Rows of text and numbers, [rows][columns]. The first column names the rows."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""  # below the table in a terminal
    notes: Sequence[str] = ()  # sentences about rows: above the caption in a terminal, a list below the Markdown table
    should_mark_best: bool = False  # bold for the largest number of each column, in a terminal and from two rows on
    should_align_markdown: bool = True

    def to_rich(self) -> RichTable:
        """The table for a terminal; the first column has no heading there."""
        below = escape("\n".join([*self.notes, *([self.caption] if self.caption else [])]))
        table = RichTable(
            title=escape(self.title) or None, title_justify="left", caption=below or None, caption_justify="left"
        )
        for number, column in enumerate(self.columns):
            heading = escape(column.heading) if number else ""
            table.add_column(heading, justify=column.align, no_wrap=not column.can_wrap)
        best = self._best_numbers()
        if not self.rows:
            table.add_row(NOTHING)
        for row, texts in zip(self.rows, self._texts(UNDEFINED), strict=True):
            bold = [not isinstance(cell, str) and text == top for cell, text, top in zip(row, texts, best, strict=True)]
            table.add_row(*(Text(text, style="bold" if top else "") for text, top in zip(texts, bold, strict=True)))
        return table

    def to_markdown(self) -> str:
        """A GitHub table, and the notes as a list below it."""
        headings = [column.heading for column in self.columns]
        rules = ["---:" if self.should_align_markdown and column.align == "right" else "---" for column in self.columns]
        nothing = [] if self.rows else [[NOTHING, *[""] * (len(self.columns) - 1)]]
        lines = [f"| {' | '.join(texts)} |\n" for texts in [headings, rules, *self._texts(UNDEFINED), *nothing]]
        notes = [f"\n- {note}" for note in self.notes]
        return "".join([*lines, *notes, *(["\n"] if notes else [])])

    def to_csv(self) -> str:
        """Comma-separated values with a heading; undefined cells are empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.heading for column in self.columns])
        writer.writerows(self._texts(""))
        return file.getvalue()

    def to_html(self) -> str:
        """A <table>, escaped, with its title as <caption>: a part of a page (`pages.render_page`)."""
        return render_page("table.html", table=self, rows=self._texts(UNDEFINED), nothing=NOTHING)

    def _texts(self, undefined: str) -> list[list[str]]:
        return [
            [column.format(cell, undefined=undefined) for column, cell in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def _best_numbers(self) -> list[str | None]:
        """The largest number of each column as it is shown; None where nothing is to be marked."""
        if not self.should_mark_best or len(self.rows) < 2:
            return [None] * len(self.columns)
        best: list[str | None] = []
        for number, column in enumerate(self.columns):
            cells = [cell for cell in (row[number] for row in self.rows) if not isinstance(cell, str | None)]
            defined = [cell for cell in cells if not np.isnan(cell)]
            best.append(column.format(max(defined), undefined=UNDEFINED) if defined else None)
        return best
