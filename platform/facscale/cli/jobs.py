"""Commands about jobs: `run`, `check`, `rehearse`; and on other clusters `submit`, `status`, `logs`, `list`, `cancel`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facscale.cli.arguments import (
    CLUSTER_RULES,
    OVERRIDES,
    SPEC,
    ClusterSelector,
    Command,
    PositiveNumber,
    Rule,
    cluster_options,
    filter_ray_output,
)
from facscale.errors import UserError

if TYPE_CHECKING:
    from facscale.job.prepared import PreparedJob
    from facscale.profile import Price
    from facscale.spec import Document

NAME = click.argument("name")
POD_RULES = tuple(
    Rule(
        option, needs=("--kube",), why="a Ray cluster is used as it is, without pods, queues or worker groups to choose"
    )
    for option in ("--image", "--queue", "--group")
)


@click.command(cls=Command)
@SPEC
@OVERRIDES
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Of a pipeline: also process the items again that failed (facscale data failed OUTPUT).",
)
@filter_ray_output
def run_command(spec: Path, *, overrides: tuple[str, ...], retry_failed: bool) -> None:
    """Run a job (jobs/*.yaml) or a data pipeline (pipelines/*.yaml).

    \b
        facscale run jobs/clp.yaml method.margin=0.05 cluster.workers=8
        facscale run jobs/clp.yaml train.epochs=1 'data.labelled=[s3://faces/bp4d]'

    The Ray cluster is that of the job inside `ray job submit`; else the one that RAY_ADDRESS names; else the one that
    was last started on this machine; else a new one on this machine, for this run alone. Other jobs on the cluster are
    not affected.

    A job that is submitted again continues from its latest checkpoint, as the same run in MLflow. A pipeline whose source
    has changed writes the next version of its data set (OUTPUT-v2, ...), from the last one and what has changed.
    """
    from facscale.spec import SpecError, read_spec

    document = read_spec(spec, overrides)
    if retry_failed and "source" not in document.data:
        raise SpecError(
            f"{document.source_location(())}: --retry-failed is for data pipelines, and this is a training job"
        )
    if "source" in document.data:
        run_pipeline(document, name=spec.stem, should_retry=retry_failed)
    else:
        sys.exit(run_training(document, name=spec.stem))


def run_training(document: Document, *, name: str) -> int:
    """Run a job, with its sweep if it has one, and return the exit status.

    Mistakes in the file, and data that cannot be used, are reported before anything starts. The rest is prepared while the
    cluster is joined: to import what a job needs, and to try its methods, takes as long as to start a Ray here.
    """
    from facscale.cluster.ray import join
    from facscale.compat.ray import import_for_start
    from facscale.job.prepared import open_job

    prepared = open_job(document, name=name)
    import_for_start()
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as executor:
        run = executor.submit(prepare_training, prepared)
        join()
    return run.result()()


def prepare_training(prepared: PreparedJob) -> Callable[[], int]:
    """Try a job, and return what runs it. Raises SpecError for one that cannot run."""
    if prepared.main.job.sweep:
        from facscale.sweep import run_sweep, try_sweep

        try_sweep(prepared)
        return partial(run_sweep, prepared)
    from facscale.job.prepared import try_job
    from facscale.job.run import run_job

    try_job(prepared)
    return partial(run_job, prepared)


def run_pipeline(document: Document, *, name: str, should_retry: bool = False) -> None:
    """Make a data set and print what became of every video; the pipeline is called `name` if it has no name itself."""
    from facscale import ingest
    from facscale.cluster.ray import join
    from facscale.inference.worker_access import check_worker_access

    pipeline = ingest.configure(document)
    join()
    check_worker_access([pipeline.output, str(document.get(("source", "root")) or "")])
    named = pipeline if pipeline.name else pipeline.model_copy(update={"name": name})
    report = ingest.run(named, should_retry=should_retry)
    print(report)


@click.command(cls=Command)
@SPEC
@OVERRIDES
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of a data pipeline: how many of its videos to try (8 unless given).",
)
@click.option(
    "--price", type=PositiveNumber(), metavar="MONEY", help="Of a data pipeline: the price of a CPU core per hour."
)
def check_command(spec: Path, *, overrides: tuple[str, ...], sample: int | None, price: float | None) -> None:
    """Print what a job or a pipeline takes, without starting it.

    \b
        facscale check jobs/clp.yaml
        facscale check jobs/clp.yaml train.batch_size=256 cluster.workers=8
        facscale check pipelines/voxceleb2.yaml --sample 20 --price 0.04

    The plan of a job: the resolved spec, views and batch shapes, parameters, operations and accelerator memory of a step,
    steps and bytes of an epoch, and the time that all this takes. A job that cannot run is an error.

    Of a data pipeline, a few videos are processed as a run would do it, and scaled to the whole source: hours, bytes,
    cost, and what fails. Where the source is not at hand, published counts of the data set take its place.
    """
    from facscale.spec import SpecError, read_spec
    from facscale.spec.portable import make_resolver

    # Before torch is imported, so that a mistake in the file is reported at once. Unset variables stay as they are
    # written: where they only say where data is, published sizes do instead.
    document = read_spec(spec, overrides, resolve=make_resolver(os.environ))
    if "source" in document.data:
        check_pipeline(document, name=spec.stem, sample=sample, price=price)
        return
    for option, value in (("--sample", sample), ("--price", price)):
        if value is not None:
            raise UserError(f"{option} works only with a data pipeline, and {spec} is a job; leave it out")
    with pause_collection():
        from facscale.data.errors import DatasetNotFoundError
        from facscale.job.check import check_job

        try:
            check_job(document, name=spec.stem)
        except (SpecError, DatasetNotFoundError):
            read_spec(spec, overrides)  # an unset variable is the likelier reason, and a clearer error
            raise
    if document.data.get("sweep"):
        from facscale.sweep.check import check_sweep

        check_sweep(document, name=spec.stem)


@contextmanager
def pause_collection() -> Iterator[None]:
    """Within the block, Python does not look for cycles among the half a million objects that imports make (0.3 s)."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def check_pipeline(document: Document, *, name: str, sample: int | None, price: float | None) -> None:
    """Print an estimate of what a data pipeline takes; it is called `name` if it has no name itself."""
    from facscale import ingest
    from facscale.ingest.trial import SAMPLE

    pipeline = ingest.configure(document)
    pipeline = pipeline if pipeline.name else pipeline.model_copy(update={"name": name})
    print(ingest.estimate_pipeline(pipeline, sample=sample or SAMPLE, price=price or 0.0).format_text())


@click.command(cls=Command)
@SPEC
@OVERRIDES
@click.option(
    "--seconds",
    type=PositiveNumber(),
    default=60.0,
    show_default=True,
    help="How long to train, not counting the warm-up.",
)
@click.option("--all", "everything", is_flag=True, help="Rehearse every row and stage, not only the main row.")
@click.option(
    "--price", type=PositiveNumber(), metavar="MONEY", help="Price of a GPU per hour; else that of the clusters file."
)
@click.option(
    "--node-price",
    type=PositiveNumber(),
    metavar="MONEY",
    help="Price of a node per hour; else that of the clusters file.",
)
@filter_ray_output
def rehearse_command(
    spec: Path,
    *,
    overrides: tuple[str, ...],
    seconds: float,
    everything: bool,
    price: float | None,
    node_price: float | None,
) -> None:
    """Train a job for a minute to measure its speed, memory and cost.

    \b
        facscale rehearse jobs/clp.yaml
        facscale rehearse jobs/clp.yaml cluster.workers=8 data.threads=8 --price 2.5
        ray job submit -- facscale rehearse jobs/clp.yaml

    It measures training on the job's real workers, and each part alone: reading, decoding, the model, the exchange of
    gradients. From that it derives the bottleneck and what to do about it, images per second, memory, and the hours and
    the cost of the whole job: all rows, seeds and folds. Nothing is stored, and nothing is logged to MLflow.

    The Ray cluster is found as by `facscale run`. Hours become money if your clusters file has a gpu_price or
    node_price for the cluster that the job or FACSCALE_CLUSTER names.
    """
    from facscale.spec import Job, SpecError, parse, read_spec

    document = read_spec(spec, overrides)
    if "source" in document.data:
        raise SpecError(
            f"{document.source_location(())}: this is a data pipeline, but `rehearse` needs a training job. "
            "To try the pipeline on a few items: facscale run ... source.limit=20 output=/tmp/trial"
        )
    from facscale.profile import Price, profile_job

    trials = 0
    if sweep := parse(document, Job).sweep if document.data.get("sweep") else None:
        from facscale.sweep.space import count_trials

        trials = count_trials(sweep)
    paid = resolve_price(document, Price(gpu=price or 0.0, node=node_price or 0.0))
    sys.exit(profile_job(document, name=spec.stem, seconds=seconds, price=paid, trials=trials, everything=everything))


def resolve_price(document: Document, given: Price) -> Price:
    """The given prices; where one is 0, that of the clusters file for the cluster of the job or FACSCALE_CLUSTER."""
    from facscale.cluster.kubernetes.clusters import load_prices
    from facscale.profile import Price

    gpu, node = load_prices(str(document.get(("cluster", "name")) or os.environ.get("FACSCALE_CLUSTER", "")))
    return Price(gpu=given.gpu or gpu, node=given.node or node)


@click.command(cls=Command, rules=(*CLUSTER_RULES, *POD_RULES))
@SPEC
@OVERRIDES
@cluster_options
@click.option("--image", default="", metavar="IMAGE", help="Container image, instead of the chart's.")
@click.option("--queue", default="", metavar="QUEUE", help="Kueue's LocalQueue, instead of the chart's.")
@click.option("--group", default="", metavar="GROUP", help="Worker group, instead of the chart's first that fits.")
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with code to upload, at most 1 MB zipped.",
)
@click.option("--again", is_flag=True, help="Also if the same job has ended: it continues from its checkpoint.")
@click.option("--detach", is_flag=True, help="Return at once, without watching the job.")
def submit_command(
    spec: Path,
    *,
    overrides: tuple[str, ...],
    selector: ClusterSelector,
    image: str,
    queue: str,
    group: str,
    working_dir: Path | None,
    again: bool,
    detach: bool,
) -> None:
    """Submit a job to a Kubernetes or Ray cluster, and watch it.

    \b
        facscale submit jobs/clp.yaml --kube munich
        facscale submit jobs/clp.yaml cluster.workers=8 --kube munich --queue gpu --detach
        facscale submit jobs/clp.yaml --ray lab --working-dir my_method

    The Kubernetes cluster needs facscale's chart. The spec is checked first here, then by the cluster, without creating
    anything. Its ${VARIABLES} take their values from the cluster; keys and passwords are the cluster's too and never
    stand in a spec. Ctrl-C stops watching, not the job. If the same spec is submitted again, the existing job is
    recognised. Exit status 1: the job failed or was stopped.

    Clusters have names in ~/.config/facscale/clusters.yaml ($FACSCALE_CLUSTERS):

    \b
        clusters:
          munich: {context: gke-munich, namespace: facscale}
          lab: {address: "http://10.1.2.3:8265", token_file: ~/.ray/auth_token}
    """
    from facscale.cli.remote import resolve_target, submit_job
    from facscale.cluster.kubernetes.manifest import SubmitOptions

    target = resolve_target(selector)
    options = SubmitOptions(image=image, queue=queue, group=group)
    sys.exit(
        submit_job(
            spec, overrides, target=target, options=options, working_dir=working_dir, again=again, watch=not detach
        )
    )


@click.command(cls=Command, rules=CLUSTER_RULES)
@NAME
@cluster_options
def status_command(name: str, selector: ClusterSelector) -> None:
    """Show the state of a submitted job, and what it waits for.

    \b
        facscale status clp
        facscale status clp --kube munich

    NAME is the name of the job, of its RayJob or of its Ray submission, or the beginning of one of them. All clusters
    in your clusters file are searched, or the one that --kube or --ray names.
    """
    from facscale.cli.remote import show_status

    show_status(name, selector=selector)


@click.command(cls=Command, rules=CLUSTER_RULES)
@NAME
@cluster_options
@click.option("--follow", is_flag=True, help="Follow the log until the job ends; Ctrl-C stops watching, not the job.")
def logs_command(name: str, *, selector: ClusterSelector, follow: bool) -> None:
    """Print the log of a submitted job.

    \b
        facscale logs clp
        facscale logs clp --follow

    NAME is as for `facscale status`. With --follow the exit status is that of the job, as for `facscale submit`.
    """
    from facscale.cli.remote import show_log

    sys.exit(show_log(name, selector=selector, follow=follow))


@click.command(cls=Command, rules=CLUSTER_RULES)
@cluster_options
@click.option("--all", "everything", is_flag=True, help="Also jobs that were submitted over a week ago and have ended.")
def list_command(*, selector: ClusterSelector, everything: bool) -> None:
    """List the submitted jobs on all your clusters.

    \b
        facscale list
        facscale list --all --kube munich

    The clusters are those of your clusters file, queried at the same time, or the one that --kube or --ray names. One
    that does not answer is reported below the table, and the exit status is then 1.
    """
    from facscale.cli.remote import show_jobs

    sys.exit(show_jobs(selector=selector, everything=everything))


@click.command(cls=Command, rules=CLUSTER_RULES)
@NAME
@cluster_options
def cancel_command(name: str, selector: ClusterSelector) -> None:
    """Stop a submitted job; its checkpoints stay.

    \b
        facscale cancel clp

    NAME is as for `facscale status`. Submitted again, the job continues from its latest checkpoint.
    """
    from facscale.cli.remote import cancel_job

    cancel_job(name, selector=selector)
