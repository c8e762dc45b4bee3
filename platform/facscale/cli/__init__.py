"""The command line: `facscale run`, `check`, `methods`, `data`, `retrieve`, `sync`, `demo`. Heavy imports wait for their command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from facscale import __version__
from facscale.errors import UserError
from facscale.spec import read

SPEC = click.argument("spec", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


class Teaching(click.Group):
    """Our own errors are printed whole and alone; exit status 2 means that the input has to change."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; a UserError becomes one message on standard error."""
        try:
            return super().invoke(context)
        except UserError as error:
            click.echo(click.style("error: ", fg="red") + str(error), err=True)
            sys.exit(2)


@click.group(cls=Teaching, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="facscale")
def main() -> None:
    """Train, sweep and compare facial action unit representations on a cluster.

    A job is one YAML file. These do the same thing:

    \b
        ./jobs/clp.yaml
        facscale run jobs/clp.yaml
        ray job submit -- jobs/clp.yaml

    Start with `make demo`, or with `facscale check jobs/clp.yaml`, which prints the whole plan and starts nothing.
    """


@main.command()
@SPEC
@OVERRIDES
def run(spec: Path, overrides: tuple[str, ...]) -> None:
    """Run a job (jobs/*.yaml) or a data pipeline (pipelines/*.yaml) on the Ray cluster at hand.

    Inside `ray job submit` that is the job's cluster; with RAY_ADDRESS set, that one; else the cluster that runs on
    this machine; else a new one on this machine, for this run alone.

    \b
        facscale run jobs/clp.yaml method.margin=0.05 cluster.workers=8
        facscale run jobs/clp.yaml train.epochs=1 'data.labelled=[s3://faces/bp4d]'

    The same job submitted again goes on from its latest checkpoint, and is the same run in MLflow.
    """
    document = read(spec, overrides)
    if "source" in document.data:
        from facscale.cli.pipeline import run_pipeline

        run_pipeline(document, name=spec.stem)
    else:
        from facscale.job import run_job

        sys.exit(run_job(document, name=spec.stem))


@main.command()
@SPEC
@OVERRIDES
def check(spec: Path, overrides: tuple[str, ...]) -> None:
    """Print a job's whole plan without starting anything; refuse one that cannot run.

    The resolved spec, views and batch shapes, parameters, operations and accelerator memory of a step, steps and bytes
    of an epoch, and the time that this takes.
    """
    document = read(spec, overrides)  # a wrong file is told before torch is imported
    from facscale.job.check import check_job

    check_job(document, name=spec.stem)


@main.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the methods; with a NAME, its paper, its hyper-parameters and their defaults."""
    from facscale.cli.methods import show_method, show_methods

    show_method(name) if name else show_methods()


@main.command()
@click.argument("url")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a contact sheet of its faces to this PNG.")
def data(url: str, sheet: Path | None) -> None:
    """Say what a data set of shards holds. URL is a folder or s3://bucket/prefix."""
    from facscale.cli.data import show_data

    show_data(url, sheet=sheet)


@main.command()
@click.argument("export")
@click.argument("data")
@click.argument("queries", nargs=-1, metavar="[QUERY]...")
@click.option(
    "--embedding",
    default="encoder",
    show_default=True,
    metavar="NAME",
    help='Which one of the method; TCAE has "pose" too.',
)
@click.option("--k", default=8, show_default=True, help="Answers to each query.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw queries and answers.")
@click.option(
    "--strangers/--anyone", default=True, show_default=True, help="Who answers: only other people, or any other video."
)
@click.option("--seed", default=0, show_default=True, help="Draws the frames that are asked about without a QUERY.")
@click.option("--number", default=6, show_default=True, help="How many frames that are.")
def retrieve(
    export: str, data: str, queries: tuple[str, ...], embedding: str, k: int, sheet: Path | None,
    strangers: bool, seed: int, number: int,  # noqa: FBT001 - a flag of the command line
) -> None:  # fmt: skip
    """Find the frames that show the same face movements: the nearest ones of other people, by an exported method.

    EXPORT is the method.safetensors of a run, DATA a data set of shards; both may be s3://bucket/... A QUERY is a photo
    of a face or a frame of DATA, IDENTITY/VIDEO/FRAME. Without one, frames of DATA are drawn.

    \b
        facscale retrieve method.safetensors s3://faces/bp4d smile.jpg --sheet smiles.png
        facscale retrieve method.safetensors s3://faces/bp4d F001/T1/12 F001/T8/40 --k 3
        facscale retrieve tcae.safetensors s3://faces/bp4d --embedding pose --anyone

    Of each video the best frame answers. AUs that the query shows too are marked. Features are computed on the Ray
    cluster at hand, once: they are kept in ~/.cache/facscale/embeddings.
    """
    from facscale.cli.retrieve import retrieve_faces

    retrieve_faces(
        export, data, queries, embedding=embedding, k=k, sheet=sheet, strangers=strangers, seed=seed, number=number
    )


@main.command()
@click.argument("spool", type=click.Path(path_type=Path, exists=True, file_okay=False))
def sync(spool: Path) -> None:
    """Send to MLflow what a job recorded while the tracker could not be reached. SPOOL is the folder that it named."""
    from facscale.track import flush

    delivered = flush(spool)
    click.echo(
        f"{spool}: {'everything is at the tracker' if delivered else 'the tracker cannot be reached; nothing is lost'}"
    )
    sys.exit(0 if delivered else 1)


@main.command()
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Where everything goes."
)
@click.option("--stop", is_flag=True, help="Stop the Ray cluster and the MLflow server that the demo left running.")
def demo(folder: Path, stop: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """The main job, small, on this machine: synthetic faces to cross-validated F1, in about ten minutes."""
    from facscale.cli.demo import run_demo, stop_demo

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    stop_demo(folder) if stop else sys.exit(run_demo(folder))
