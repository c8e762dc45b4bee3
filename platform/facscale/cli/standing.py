"""`facscale status`, `logs`, `cancel` and `list`."""

from __future__ import annotations

import os
from typing import NamedTuple

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from facscale.cli.arguments import At
from facscale.cli.submit import one_place, watched, where
from facscale.cluster.kubernetes import Host, Place, Standing, State, everywhere, host, places
from facscale.cluster.kubernetes.clusters import file
from facscale.cluster.kubernetes.deciding import find
from facscale.cluster.kubernetes.host import progress
from facscale.cluster.kubernetes.hosts import each
from facscale.errors import UserError
from facscale.progress import duration

LAST = 60  # lines of a log that tell the progress
RECENT_S = 7 * 86400
WIDTH = 150  # of the table in a log
COLOURS = {State.RUNNING: "green", State.FAILED: "red", State.QUEUED: "yellow", State.STARTING: "yellow"}


class Line(NamedTuple):
    """A job in the list."""

    job: Standing
    progress: str


class There(NamedTuple):
    """A job, and the cluster it is on."""

    cluster: Host
    job: Standing


def asked(at: At) -> dict[str, Place]:
    """The clusters that are meant: one, or all of the file. Raises UserError where there is none."""
    if at.kube or at.ray:
        place = one_place(at)
        return {place.name: place}
    known = places()
    if not known:
        raise UserError(
            f"{file()} names no clusters; write one there (facscale submit --help shows how), or say --kube or --ray"
        )
    return known


def located(name: str, *, at: At) -> There:
    """The job that a name means. Raises UserError for none, or several."""
    known = asked(at)
    found = find(name, everywhere(known.values()))
    cluster = host(known[found.cluster])
    return There(cluster, cluster.look(found.job.id))


def show_status(name: str, *, at: At) -> None:
    """All that is known of one job."""
    cluster, job = located(name, at=at)
    lines = {
        "state": f"{job.state}{f', try {job.tries}' if job.tries > 1 else ''}",
        "waits for" if not job.state.over else "because": job.why,
        "progress": reached(cluster, job),
        "workers": job.workers,
        "submitted": f"{duration(job.age_s)} ago by {job.who or 'somebody'}",
        "submit": job.words,
    }
    click.echo(f"{job.id} on {cluster.place.name}")
    for title, text in lines.items():
        if text:
            click.echo(f"  {title:<10} {text}")
    if not job.state.over:
        click.echo(f"  facscale logs {job.id} --follow {where(cluster.place)}")


def show_log(name: str, *, at: At, follow: bool) -> int:
    """What it has printed, and, followed, what it prints; the exit status."""
    cluster, job = located(name, at=at)
    if follow:
        return watched(cluster, job.id)
    lines = cluster.lines(job.id)
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo(f"{job.id} has printed nothing; it is {job.state}{f': {job.why}' if job.why else ''}", err=True)
    return 0


def cancel_job(name: str, *, at: At) -> None:
    """Stop it, unless it is over."""
    cluster, job = located(name, at=at)
    if job.state.over:
        click.echo(f"{job.id} is over: it {'was' if job.state is State.STOPPED else 'has'} {job.state}")
        return
    click.echo(f"stopping {job.id} on {cluster.place.name} ...")
    cluster.cancel(job.id)
    click.echo(
        f"stopped; its checkpoints stay. It goes on from the latest with: facscale submit {job.words} {where(cluster.place)}"
    )


def show_jobs(*, at: At, everything: bool) -> None:
    """The table; clusters in the file's order, the newest job first."""
    found = each(asked(at), lambda place: lines_of(host(place), everything=everything))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("cluster", "job", "state", "progress", "workers", "age", "who"):
        table.add_column(title, overflow="fold")
    silent = {cluster: lines for cluster, lines in found.items() if isinstance(lines, UserError)}
    for cluster, lines in found.items():
        if isinstance(lines, UserError):
            continue
        if not lines:
            table.add_row(cluster, "no jobs")
        for job, progressed in lines:
            colour = COLOURS.get(job.state, "default")
            told = map(escape, (progressed, job.workers, duration(job.age_s), job.who))
            table.add_row(cluster, job.id, f"[{colour}]{job.state}[/]", *told)
    Console(width=WIDTH if not os.isatty(1) else None, highlight=False).print(table)
    for cluster, error in silent.items():
        click.echo(click.style(f"{cluster}: ", fg="red") + str(error).removeprefix(f"{cluster}: "))


def lines_of(cluster: Host, *, everything: bool) -> list[Line]:
    """The jobs of one cluster, with their progress."""
    shown = [job for job in cluster.jobs() if everything or not job.state.over or job.age_s < RECENT_S]
    return [Line(job, reached(cluster, job)) for job in shown]


def reached(cluster: Host, job: Standing) -> str:
    """How far a running job is, by the last bar in its log."""
    bar = progress(cluster.lines(job.id, last=LAST)) if job.state is State.RUNNING else None
    return f"{100 * bar.done // bar.total} % of {bar.title}" if bar else ""
