"""The command line: `facscale run`, `check`, `rehearse`, `doctor`, `submit`, `methods`, `data`, `retrieve`, `published`, `sync`, `init`, `demo`. Heavy imports wait for their command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from facscale import __version__
from facscale.cli import preflight as ahead
from facscale.cli import remote as elsewhere
from facscale.cli import start
from facscale.cli.arguments import OVERRIDES, SPEC, Command, OutputFile, Rule, on_ray
from facscale.errors import UserError
from facscale.spec import read


class Teaching(click.Group):
    """Our own errors are printed whole and alone; exit status 2 means that the input has to change."""

    command_class = Command

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

    Start with `facscale demo`, or with `facscale init faces`, which copies all jobs and pipelines to a folder `faces`, and
    `facscale check jobs/clp.yaml` in it, which prints the whole plan and starts nothing.
    """


@main.command()
@SPEC
@OVERRIDES
@on_ray
def run(spec: Path, overrides: tuple[str, ...]) -> None:
    """Run a job (jobs/*.yaml) or a data pipeline (pipelines/*.yaml) on the Ray cluster at hand.

    Inside `ray job submit` that is the job's cluster; with RAY_ADDRESS set, that one; else the cluster that was last
    started on this machine; else a new one on this machine, for this run alone. Others that run here are not touched.

    \b
        facscale run jobs/clp.yaml method.margin=0.05 cluster.workers=8
        facscale run jobs/clp.yaml train.epochs=1 'data.labelled=[s3://faces/bp4d]'

    The same job submitted again goes on from its latest checkpoint, and is the same run in MLflow.
    """
    document = read(spec, overrides)
    if "source" in document.data:
        from facscale.cli.pipeline import run_pipeline

        run_pipeline(document, name=spec.stem)
    elif document.data.get("sweep"):
        from facscale.sweep import run_sweep

        sys.exit(run_sweep(document, name=spec.stem))
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
    if document.data.get("sweep"):
        from facscale.sweep.check import check_sweep

        check_sweep(document, name=spec.stem)


@main.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the methods; with a NAME, its paper, its hyper-parameters and their defaults."""
    from facscale.cli.methods import show_method, show_methods

    show_method(name) if name else show_methods()


@main.command()
@click.argument("url")
@click.option(
    "--sheet",
    type=OutputFile(suffix=".png"),
    metavar="FILE.png",
    help="Write a contact sheet of its faces to this PNG.",
)
def data(url: str, sheet: Path | None) -> None:
    """Say what a data set of shards holds. URL is a folder or s3://bucket/prefix."""
    from facscale.cli.data import show_data

    show_data(url, sheet=sheet)


@main.command(
    rules=[
        Rule("--seed", excludes=("QUERY",), why="it draws frames where no QUERY names them"),
        Rule("--number", excludes=("QUERY",), why="it says how many frames are drawn where no QUERY names them"),
    ]
)
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
@click.option("--sheet", type=OutputFile(suffix=".png"), metavar="FILE.png", help="Draw queries and answers.")
@click.option(
    "--strangers/--anyone", default=True, show_default=True, help="Who answers: only other people, or any other video."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws the frames that are asked about without a QUERY.",
)
@click.option("--number", default=6, show_default=True, help="How many frames that are.")
@on_ray
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


@main.command(
    rules=[Rule("--misprints", excludes=("--csv",), why="misprints are sentences, and CSV has the rows as printed")]
)
@click.argument("data", required=False)
@click.option("--paper", metavar="NAME", help="clp, tcae, rtatl or aunet.")
@click.option("--method", metavar="NAME", help='One of ours, a row of our jobs, or a paper\'s name for it: "AU-FAN".')
@click.option("--misprints", is_flag=True, help="Only what cannot be right, or is printed differently elsewhere.")
@click.option("--csv", is_flag=True, help="One line a row, for other programs.")
def published(data: str | None, paper: str | None, method: str | None, misprints: bool, csv: bool) -> None:  # noqa: FBT001 - flags of the command line
    """Show what the papers print: F1 by AU on BP4D, DISFA, GFT and Aff-Wild2, and all their other results.

    Without DATA and options, the list of all tables. A number that the others of its row do not allow has a footnote.

    \b
        facscale published BP4D
        facscale published --method clp
        facscale published disfa --paper rtatl --csv
    """
    from facscale.cli.published import show_published

    show_published(data, paper=paper, method=method, misprints=misprints, csv=csv)


@main.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--data", default="", metavar="NAME", help="Judged on which data set (MLflow's experiment).")
@click.option("--tracker", default="", metavar="URI", help="MLflow; else MLFLOW_TRACKING_URI.")
@click.option("--papers/--no-papers", default=True, show_default=True, help="What papers print, beside ours.")
@click.option("--page", type=OutputFile(), metavar="FILE.html", help="Write it as a page with plots.")
@click.option("--csv", is_flag=True, help="F1 by method and fold, for other programs.")
@click.option("--log-papers", is_flag=True, help="Make every published row a run in MLflow, tagged source=paper.")
def compare(
    runs: tuple[str, ...], data: str, tracker: str, papers: bool, page: Path | None, csv: bool, log_papers: bool,  # noqa: FBT001 - flags of the command line
) -> None:  # fmt: skip
    """Compare what was judged: with each other, with the papers, and with chance.

    Without a RUN, everything on the data set, the best first. With some, the others against the first: is one better, or
    not distinguishable with these people? A RUN is a row's name, JOB/ROW, or the beginning of a run's id; all seeds of a
    row count.

    \b
        facscale compare --data bp4d
        facscale compare moco clp --data bp4d --page clp.html
        facscale compare clp/supervised clp-wide/clp-wide
        facscale compare --data bp4d --log-papers

    Intervals hold 95 % of what other people (drawn anew from those tested, 10,000 times) and other seeds would give.
    """
    from facscale.cli.compare import compare_runs

    compare_runs(runs, data=data, tracker=tracker, papers=papers, page=page, csv=csv, log=log_papers)


@main.command()
@click.argument("card")
@OVERRIDES
@click.option("--weights", default="", metavar="FOLDER", help="Where the exported methods lie, if not where they did.")
@on_ray
def verify(card: str, overrides: tuple[str, ...], weights: str) -> None:
    """Judge a run again from its weights: does every digit of its reproduction card hold? Exit status 1 if not.

    CARD is a run's card.json, a file or s3://bucket/.... Data, folds and weights must be those that it names; where they
    lie, and what the cluster has, may have changed:

    \b
        facscale verify card.json
        facscale verify card.json --weights exports 'data.labelled=[s3://faces/bp4d]' cluster.gpus_per_worker=0
    """
    from facscale.job.verify import verify_card
    from facscale.spec.document import override

    sys.exit(0 if verify_card(card, weights=weights, changes=[override(word) for word in overrides]) else 1)


@main.command()
@click.argument("spool", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option(
    "--uri", metavar="TRACKER", help="Send a copy of everything to this tracker, whatever each job's own one is."
)
def sync(spool: Path | None, uri: str | None) -> None:
    """Send to MLflow what jobs recorded while the tracker could not be reached; nothing is ever sent twice.

    SPOOL is the folder that a job named; without it, all that jobs of yours left on this machine are sent. Exit status 1
    means that something is left.

    \b
        facscale sync
        facscale sync --uri https://mlflow.team.org    # runs of a laptop, files and encoders included, for everybody

    Journals that a tracker has whole are removed 60 days after their last record.
    """
    from facscale.cli.sync import sync_journals

    sys.exit(sync_journals(spool, uri=uri))


for command in (*ahead.COMMANDS, *elsewhere.COMMANDS, *start.COMMANDS):
    main.add_command(command)
