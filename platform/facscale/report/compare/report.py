"""Some rows against the first of them: F1 by AU, papers, verdicts, thresholds, people; for a terminal and as a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from facscale.evaluate import Comparison, Predictions, Thresholds, compared, operating, per_subject
from facscale.evaluate.predictions import matched
from facscale.report import figures, html
from facscale.report.compare.entries import Entry
from facscale.report.compare.papers import beside
from facscale.report.strips import subject_strips
from facscale.report.table import Table

THRESHOLD = 0.5
DRAWN = 12  # rows: bars of more could not be told apart
Load = Callable[[Entry], Sequence[Predictions]]  # of each training


@dataclass(frozen=True)
class Report:
    """What there is to say of them."""

    data: str
    table: Table
    comparison: Comparison | None  # none where there is but one, or the frames that they judged are not kept
    thresholds: Thresholds | None
    people: dict[str, dict[str, float]]  # F1 in [0, 1] of each person, by row: first trainings

    def page(self) -> str:
        """One HTML file with figures in it."""
        drawn = Table(self.table.rows[:DRAWN])
        bars = picture(figures.f1_bars(drawn, title=f"F1 on {self.data}"))
        more = len(self.table.rows) - DRAWN
        note = html.text(f"The first {DRAWN} rows are drawn; the table has {more} more.") if more > 0 else ""
        parts = [html.section("F1 by action unit", bars, note, table(self.table))]
        if self.comparison:
            verdicts = "".join(html.text(verdict) for verdict in self.comparison.verdicts)
            parts.append(
                html.section(f"Beside {self.comparison.rows[0].name}", verdicts, lines(self.comparison.markdown()))
            )
        if self.people:
            parts.append(html.section("Person by person", picture(subject_strips(self.people))))
        if self.thresholds:
            about = "Cheating: the threshold has seen the labels that it is tested on; a bound, no result."
            parts.append(html.section("Thresholds", lines(self.thresholds.markdown()), html.text(about)))
        return html.page(f"{len(self.table.rows)} rows on {self.data}", *parts)


def report(chosen: Sequence[Entry], *, data: str, load: Load, papers: bool) -> Report:
    """Of some rows, the first of which is what the others are compared with. Raises CompareError, ValueError."""
    rows = [row for one in chosen for row in (one.row, *(beside(one, data=data) if papers else ()))]
    said = {one.name: _as_named(one, load(one)) for one in chosen}
    kept = [trainings for trainings in said.values() if trainings]
    if not kept:
        return Report(data, Table(tuple(rows)), None, None, {})
    same = iter(matched([training for trainings in kept for training in trainings]))
    methods = [[next(same) for _ in trainings] for trainings in kept]
    return Report(
        data,
        Table(tuple(rows)),
        compared(methods, threshold=THRESHOLD) if len(methods) > 1 else None,
        Thresholds(tuple(operating(trainings, threshold=THRESHOLD) for trainings in methods)),
        {trainings[0].name: per_subject(trainings[0], threshold=THRESHOLD) for trainings in methods},
    )


def _as_named(entry: Entry, trainings: Sequence[Predictions]) -> list[Predictions]:
    """Under the name by which the user knows it: rows of several jobs may have the same one."""
    return [Predictions(**{**vars(training), "name": entry.name}) for training in trainings]


def picture(figure: Any) -> str:
    """A matplotlib figure inside the page."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, bbox_inches="tight")
    return f'<img style="max-width:100%" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'


def table(of: Table) -> str:
    """F1 x 100 as HTML."""
    cells = [["", *(f"AU{au}" for au in of.aus), "Avg"]]
    for row in of.rows:
        values = dict(zip(row.aus, 100 * row.f1, strict=True))
        cells.append(
            [row.name, *(f"{values[au]:.1f}" if au in values else "" for au in of.aus), f"{100 * row.mean:.1f}"]
        )
    return html.table(cells)


def lines(markdown: str) -> str:
    """A markdown table as HTML."""
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    return html.table([rows[0], *rows[2:]])
