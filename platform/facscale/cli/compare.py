"""`facscale compare`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from facscale.evaluate import Predictions
from facscale.names import file_name
from facscale.report.compare import entries, log_papers, named
from facscale.report.compare.entries import CompareError, Entry
from facscale.report.compare.papers import board
from facscale.report.table import Table
from facscale.track.query import artifact, experiments, runs

if TYPE_CHECKING:  # it draws, and matplotlib takes a second
    from facscale.report.compare.report import Report

TOP = 30
WIDTH = 160  # of tables in a file or a log


def compare_runs(
    words: Sequence[str], *, data: str, tracker: str, papers: bool, page: Path | None, csv: bool, log: bool
) -> None:
    """Print, draw and log what was asked for. Raises CompareError and QueryError."""
    uri = tracker or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise CompareError("which MLflow? set MLFLOW_TRACKING_URI, or say --tracker http://HOST:PORT or sqlite:///FILE")
    data = data or the_only_one(experiments(uri))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if log:
        count = log_papers(uri, data=data, experiment=data)
        click.echo(f"{count} published rows are runs of {data}, tagged source=paper", err=True)
    found = entries(runs(uri, experiment=data))
    if not found:
        raise CompareError(f"{uri}: nothing was judged on {data} yet")
    told = (
        chosen(found, words, uri=uri, data=data, papers=papers)
        if words
        else everything(found, data=data, papers=papers)
    )
    show(told.table, console=console, title=f"F1 x 100 on {data}", csv=csv)
    if told.comparison and not csv:
        console.print(told.comparison.rich(title=f"Beside {told.comparison.rows[0].name}"))
    if told.thresholds and not csv:
        console.print(told.thresholds.rich(title="Thresholds"))
    if page:
        page.write_text(told.page(), encoding="utf-8")
        click.echo(f"{page}: open it in a browser", err=True)


def everything(found: Sequence[Entry], *, data: str, papers: bool) -> Report:
    """All rows, and the papers' below them."""
    from facscale.report.compare.report import Report

    return Report(data, board(found, data=data, papers=papers), None, None, {})


def chosen(found: Sequence[Entry], words: Sequence[str], *, uri: str, data: str, papers: bool) -> Report:
    """The rows that are named, against the first of them. Raises CompareError for one that is named twice."""
    from facscale.report.compare.report import report

    def load(entry: Entry) -> list[Predictions]:
        kept = [artifact(uri, run=run.id, path=f"predictions_{file_name(data)}.parquet") for run in entry.runs]
        return [Predictions.read(one) for one in kept if one is not None]

    rows = [named(found, word) for word in words]
    for number, word in enumerate(words):
        if rows[number] in rows[:number]:
            raise CompareError(f"{word} and {words[rows.index(rows[number])]} are the same row; leave one out")
    return report(rows, data=data, load=load, papers=papers)


def show(table: Table, *, console: Console, title: str, csv: bool) -> None:
    """For a person, the best rows; for a program, all."""
    if csv:
        click.echo(table.csv(), nl=False)
        return
    more = len(table.rows) - TOP
    console.print(Table(table.rows[:TOP]).rich(title=title))
    if more > 0:
        console.print(f"... and {more} more: --csv prints all")


def the_only_one(known: Sequence[str]) -> str:
    """The data set that is meant where none is named. Raises CompareError where there are several."""
    if len(known) != 1:
        raise CompareError(f"on which data set? --data {' | '.join(known) or 'NAME (nothing was judged yet)'}")
    return known[0]
