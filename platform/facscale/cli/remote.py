"""`facscale submit`, `status`, `logs`, `cancel` and `list`: jobs on clusters elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from facscale.cli.arguments import ONE_PLACE, OVERRIDES, SPEC, At, Command, Rule, somewhere

NAME = click.argument("name")
OF_PODS = tuple(
    Rule(option, needs=("--kube",), why="a Ray cluster stands as it is, and has no pods, queues or groups to choose")
    for option in ("--image", "--queue", "--group")
)


@click.command(cls=Command, rules=(*ONE_PLACE, *OF_PODS))
@SPEC
@OVERRIDES
@somewhere
@click.option("--image", default="", metavar="IMAGE", help="Instead of the chart's.")
@click.option("--queue", default="", metavar="QUEUE", help="Kueue's LocalQueue, instead of the chart's.")
@click.option("--group", default="", metavar="GROUP", help="Worker group; else the chart's first one that fits.")
@click.option(
    "--working-dir", type=click.Path(path_type=Path), metavar="DIR", help="Code that goes along, 1 MB zipped."
)
@click.option("--again", is_flag=True, help="Also where the same job has ended: it goes on from its checkpoint.")
@click.option("--detach", is_flag=True, help="Do not stay to watch.")
def submit(
    spec: Path, overrides: tuple[str, ...], at: At, image: str, queue: str, group: str, working_dir: Path | None,
    again: bool, detach: bool,  # noqa: FBT001 - flags of the command line
) -> None:  # fmt: skip
    """Run a job on a cluster elsewhere, and watch it: Kubernetes with our chart (--kube), or a Ray cluster (--ray).

    \b
        facscale submit jobs/clp.yaml --kube munich
        facscale submit jobs/clp.yaml cluster.workers=8 --kube munich --queue gpu --detach
        facscale submit jobs/clp.yaml --ray lab --working-dir my_method

    The spec is checked here first, then by the cluster, without making anything. Its ${VARIABLES} are filled in by the
    cluster; keys and passwords are the cluster's and never stand in a spec. Ctrl-C stops watching, not the job. The same
    spec submitted again is recognised. Exit status 1: the job has failed, or was stopped.

    Clusters have names in ~/.config/facscale/clusters.yaml ($FACSCALE_CLUSTERS):

    \b
        clusters:
          munich: {context: gke-munich, namespace: facscale}
          lab: {address: "http://10.1.2.3:8265", token_file: ~/.ray/auth_token}
    """
    from facscale.cli.submit import one_place, submit_job
    from facscale.cluster.kubernetes.manifest import Wish

    place = one_place(at)
    wish = Wish(image=image, queue=queue, group=group)
    sys.exit(
        submit_job(spec, overrides, place=place, wish=wish, working_dir=working_dir, again=again, watch=not detach)
    )


@click.command(cls=Command, rules=ONE_PLACE)
@NAME
@somewhere
def status(name: str, at: At) -> None:
    """Say how a job elsewhere stands, and what it waits for.

    NAME is a job's name, that of its RayJob or Ray submission, or how one of them begins. All clusters of your clusters
    file are asked, or the one that --kube or --ray names.
    """
    from facscale.cli.standing import show_status

    show_status(name, at=at)


@click.command(cls=Command, rules=ONE_PLACE)
@NAME
@somewhere
@click.option("--follow", is_flag=True, help="Stay until it is over; Ctrl-C stops watching, not the job.")
def logs(name: str, at: At, follow: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """Print what a job elsewhere has printed. With --follow the exit status is the job's, as of `facscale submit`.

    NAME is as for `facscale status`.
    """
    from facscale.cli.standing import show_log

    sys.exit(show_log(name, at=at, follow=follow))


@click.command(cls=Command, rules=ONE_PLACE)
@NAME
@somewhere
def cancel(name: str, at: At) -> None:
    """Stop a job elsewhere. Its checkpoints stay: submitted again, it goes on from the latest one.

    NAME is as for `facscale status`.
    """
    from facscale.cli.standing import cancel_job

    cancel_job(name, at=at)


@click.command(name="list", cls=Command, rules=ONE_PLACE)
@somewhere
@click.option("--all", "everything", is_flag=True, help="Also what was submitted more than a week ago and is over.")
def list_(at: At, everything: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """Show the jobs on all clusters of your clusters file, asked at the same time.

    A cluster that does not answer is told below the table.
    """
    from facscale.cli.standing import show_jobs

    show_jobs(at=at, everything=everything)


COMMANDS = (submit, status, logs, cancel, list_)
