"""`facscale compare`: evaluated runs of an MLflow server side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from facscale.evaluate import Predictions
from facscale.evaluate.predictions import PredictionsError
from facscale.names import sanitize_filename
from facscale.report.compare import collect_entries, find_entry, log_papers
from facscale.report.compare.entries import CompareError, ResultEntry
from facscale.report.compare.papers import build_leaderboard
from facscale.report.comparison import build_comparison_table, build_threshold_table
from facscale.report.f1_table import F1Table
from facscale.track.query import list_experiments, read_artifact, search_runs

if TYPE_CHECKING:
    from facscale.report.compare.comparison_report import ComparisonReport

MAX_ROWS = 30  # shown of a leaderboard
WIDTH = 160  # characters of a table where the output is no terminal


def compare_runs(
    names: Sequence[str], *, data: str, tracker: str, papers: bool, page: Path | None, csv: bool, log: bool
) -> None:
    """Print the leaderboard of a data set, or the named rows against the first; write a page, log papers.

    Raises CompareError and QueryError.
    """
    uri = tracker or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise CompareError("which MLflow? set MLFLOW_TRACKING_URI, or add --tracker http://HOST:PORT or sqlite:///FILE")
    data = data or select_only(list_experiments(uri))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if log:
        count = log_papers(uri, data=data, experiment=data)
        click.echo(f"{count} published rows are runs of {data}, tagged source=paper", err=True)
    entries = collect_entries(search_runs(uri, experiment=data))
    if not entries:
        raise CompareError(f"{uri}: no run was evaluated on {data} yet")
    from facscale.report.compare.comparison_report import ComparisonReport  # it draws, and matplotlib takes a second

    if names:
        report = build_row_report(entries, names, uri=uri, data=data, papers=papers)
    else:
        report = ComparisonReport(data, build_leaderboard(entries, data=data, papers=papers))
    show_f1(report.f1, console=console, title=f"F1 x 100 on {data}", csv=csv)
    if report.comparison and not csv:
        title = f"Compared with {report.comparison.rows[0].name}"
        console.print(build_comparison_table(report.comparison, title=title).to_rich())
    if report.thresholds and not csv:
        console.print(build_threshold_table(report.thresholds, title="Thresholds").to_rich())
    if page:
        page.write_text(report.to_html(), encoding="utf-8")
        click.echo(f"{page}: open it in a browser", err=True)


def build_row_report(
    entries: Sequence[ResultEntry], names: Sequence[str], *, uri: str, data: str, papers: bool
) -> ComparisonReport:
    """Compare the named rows with the first of them. Raises CompareError for a row that is named twice."""
    from facscale.report.compare.comparison_report import build_report

    path = f"predictions_{sanitize_filename(data)}.parquet"

    def load_predictions(entry: ResultEntry) -> list[Predictions]:
        """Those of each seed; one that is damaged is named and left out, and ends no comparison of the others."""
        predictions = []
        for run in entry.runs:
            content = read_artifact(uri, run=run.id, path=path)
            try:
                if content is not None:
                    predictions.append(Predictions.from_parquet(content, source=f"{path} of run {run.id}"))
            except PredictionsError as error:
                click.echo(f"left out: {error}; evaluate {entry.name} again", err=True)
        return predictions

    rows = [find_entry(entries, name) for name in names]
    for number, name in enumerate(names):
        if rows[number] in rows[:number]:
            raise CompareError(f"{name} and {names[rows.index(rows[number])]} are the same row; leave one out")
    return build_report(rows, data=data, load_predictions=load_predictions, papers=papers)


def show_f1(table: F1Table, *, console: Console, title: str, csv: bool) -> None:
    """Print the best rows as a table, or all rows and folds as CSV."""
    if csv:
        click.echo(table.build_fold_table().to_csv(), nl=False)
        return
    console.print(F1Table(table.rows[:MAX_ROWS]).build_table(title=title).to_rich())
    hidden = len(table.rows) - MAX_ROWS
    if hidden > 0:
        console.print(f"... and {hidden} more: --csv prints all")


def select_only(experiments: Sequence[str]) -> str:
    """The only data set that runs were evaluated on. Raises CompareError if there are several, or none."""
    if len(experiments) != 1:
        raise CompareError(f"on which data set? --data {' | '.join(experiments) or 'NAME (nothing was evaluated yet)'}")
    return experiments[0]
