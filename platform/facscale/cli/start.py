"""`facscale init` and `demo`: the first steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from facscale.cli.arguments import Command


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="[DIR]", default=Path())
def init(folder: Path) -> None:
    """Copy the jobs and pipelines that come with facscale to DIR (the current folder), to run and to change.

    \b
        facscale init faces
        cd faces
        facscale check jobs/clp.yaml

    They are the papers' trainings and the data sets' pipelines, as files of your own: change them, or inherit from one
    in a file beside it (`extends: clp.yaml`). Where DIR has a file of the same name with other content, nothing is written.
    """
    from facscale.cli.init import copy_shipped

    copy_shipped(folder)


@click.command(cls=Command)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, writable=True),
    default=Path("demo"),
    show_default=True,
    help="Where everything goes.",
)
@click.option("--stop", is_flag=True, help="Stop the Ray cluster and the MLflow server that the demo left running.")
def demo(folder: Path, stop: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """The main job, small, on this machine: synthetic faces to cross-validated F1, in about ten minutes."""
    from facscale.cli.demo import run_demo, stop_demo

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    stop_demo(folder) if stop else sys.exit(run_demo(folder))


COMMANDS = (init, demo)
