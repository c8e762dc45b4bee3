"""Commands about results: `compare`, `verify`, `published`, `retrieve` and `sync`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from facscale.cli.arguments import OVERRIDES, Command, OutputFile, Rule, filter_ray_output
from facscale.cli.completion import complete_file

CSV_RULE = Rule(
    "--misprints", excludes=("--csv",), why="misprints are explained in sentences, and CSV has the rows as printed"
)
SAMPLING_RULES = (
    Rule("--seed", excludes=("QUERY",), why="it samples frames if no QUERY is given"),
    Rule("--number", excludes=("QUERY",), why="it is the number of frames to sample if no QUERY is given"),
)


@click.command(cls=Command)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--data", default="", metavar="NAME", help="Data set of the evaluation, which is the MLflow experiment.")
@click.option("--tracker", default="", metavar="URI", help="MLflow server; else MLFLOW_TRACKING_URI.")
@click.option("--papers/--no-papers", default=True, show_default=True, help="Show the rows that papers print as well.")
@click.option("--page", type=OutputFile(), metavar="FILE.html", help="Write the comparison as a page with plots.")
@click.option("--csv", is_flag=True, help="Print F1 by method and fold as CSV.")
@click.option(
    "--log-papers", is_flag=True, help="Log every published row to MLflow as a run with the tag source=paper."
)
def compare_command(
    *, runs: tuple[str, ...], data: str, tracker: str, papers: bool, page: Path | None, csv: bool, log_papers: bool
) -> None:
    """Compare evaluated runs with each other, papers and chance.

    \b
        facscale compare --data bp4d
        facscale compare moco clp --data bp4d --page clp.html
        facscale compare clp/supervised clp-wide/clp-wide
        facscale compare --data bp4d --log-papers

    Without a RUN: all runs on the data set, the best first. With several: each of them against the first: is it better,
    or can they not be distinguished with these subjects? A RUN is the name of a row, JOB/ROW, or the beginning of a
    run's id; all seeds of a row are taken together.

    Intervals are 95 % confidence intervals over other subjects (resampled 10,000 times from the test subjects) and
    other seeds.
    """
    from facscale.cli.compare import compare_runs

    compare_runs(runs, data=data, tracker=tracker, papers=papers, page=page, csv=csv, log=log_papers)


@click.command(cls=Command)
@click.argument("card", shell_complete=complete_file)
@OVERRIDES
@click.option(
    "--weights", default="", metavar="FOLDER", help="Folder of the exported methods, if they have been moved."
)
@filter_ray_output
def verify_command(card: str, *, overrides: tuple[str, ...], weights: str) -> None:
    """Evaluate a run again and compare every digit with its card.

    \b
        facscale verify card.json
        facscale verify card.json --weights exports 'data.labelled=[s3://faces/bp4d]' cluster.gpus_per_worker=0

    CARD is the card.json of a run: a file or s3://bucket/.... Data, folds and weights must be those that the card
    names; their locations and the cluster may have changed. Exit status 1: a digit differs.
    """
    from facscale.job.verify import verify_card
    from facscale.spec.document import parse_override

    sys.exit(0 if verify_card(card, weights=weights, changes=[parse_override(word) for word in overrides]) else 1)


@click.command(cls=Command, rules=(CSV_RULE,))
@click.argument("data", required=False)
@click.option("--paper", metavar="NAME", help="Only this paper: clp, tcae, rtatl or aunet.")
@click.option(
    "--method",
    metavar="NAME",
    help='Only this method: one of ours, a row of our jobs, or a name that a paper gives it ("AU-FAN").',
)
@click.option(
    "--misprints", is_flag=True, help="Only numbers that cannot be right, or are printed differently elsewhere."
)
@click.option("--csv", is_flag=True, help="Print one line per row as CSV.")
def published_command(*, data: str | None, paper: str | None, method: str | None, misprints: bool, csv: bool) -> None:
    """Show the results that the papers print.

    \b
        facscale published BP4D
        facscale published --method clp
        facscale published disfa --paper rtatl --csv

    F1 by AU on BP4D, DISFA, GFT and Aff-Wild2, and all their other results. Without DATA and options: the list of all
    tables. A number that contradicts the others of its row has a footnote.
    """
    from facscale.cli.published import show_published

    show_published(data, paper=paper, method=method, misprints=misprints, csv=csv)


@click.command(cls=Command, rules=SAMPLING_RULES)
@click.argument("export", shell_complete=complete_file)
@click.argument("data", shell_complete=complete_file)
@click.argument("queries", nargs=-1, metavar="[QUERY]...", shell_complete=complete_file)
@click.option(
    "--embedding",
    default="encoder",
    show_default=True,
    metavar="NAME",
    help='Which embedding of the method to use; TCAE also has "pose".',
)
@click.option("--k", default=8, show_default=True, help="Number of results per query.")
@click.option("--sheet", type=OutputFile(suffix=".png"), metavar="FILE.png", help="Draw queries and results.")
@click.option(
    "--exclude-identity/--include-identity",
    default=True,
    show_default=True,
    help="Whether to leave out all frames of the query's own subject, or only those of the query's own video.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed for the sample of frames that stands in for a QUERY.",
)
@click.option("--number", default=6, show_default=True, help="Number of frames in that sample.")
@filter_ray_output
def retrieve_command(
    *,
    export: str,
    data: str,
    queries: tuple[str, ...],
    embedding: str,
    k: int,
    sheet: Path | None,
    exclude_identity: bool,
    seed: int,
    number: int,
) -> None:
    """Find the frames with the most similar facial movements.

    \b
        facscale retrieve method.safetensors s3://faces/bp4d smile.jpg --sheet smiles.png
        facscale retrieve method.safetensors s3://faces/bp4d F001/T1/12 F001/T8/40 --k 3
        facscale retrieve tcae.safetensors s3://faces/bp4d --embedding pose --include-identity

    EXPORT is the method.safetensors of a run and DATA a data set of shards; both may be s3://bucket/... A QUERY is a
    photo of a face or a frame of DATA, IDENTITY/VIDEO/FRAME. Without one, frames of DATA are sampled.

    The results are the nearest frames of other subjects, at most one of each video. AUs that the query shows too are
    marked. The embeddings are computed once, on the Ray cluster that `facscale run` would use, and are kept in
    ~/.cache/facscale/embeddings.
    """
    from facscale.cli.retrieve import retrieve_faces

    retrieve_faces(
        export,
        data,
        queries,
        embedding=embedding,
        k=k,
        sheet=sheet,
        exclude_identity=exclude_identity,
        seed=seed,
        number=number,
    )


@click.command(cls=Command)
@click.argument("spool", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option("--uri", metavar="TRACKER", help="Send a copy of everything to this tracker, whichever the jobs used.")
def sync_command(spool: Path | None, *, uri: str | None) -> None:
    """Send runs to MLflow that were recorded while it was offline.

    \b
        facscale sync
        facscale sync --uri https://mlflow.team.org    # runs of a laptop, files and encoders included, for everybody

    SPOOL is the folder that a job's message names; without it, all that your jobs left on this machine is sent. Nothing
    is sent twice. Exit status 1: some records could not be sent.

    Journals that a tracker has received completely are removed 60 days after their last record.
    """
    from facscale.cli.sync import sync_journals

    sys.exit(sync_journals(spool, uri=uri))
