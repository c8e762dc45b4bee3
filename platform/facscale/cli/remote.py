"""`facscale submit`, `status`, `logs`, `list` and `cancel`: jobs on Kubernetes and Ray clusters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from facscale.cli.arguments import ClusterSelector
from facscale.cluster.kubernetes import (
    ClusterClient,
    ClusterTarget,
    JobState,
    JobStatus,
    KubeTarget,
    RayTarget,
    create_client,
    list_all_jobs,
    load_targets,
    resolve_kube_target,
    resolve_ray_target,
)
from facscale.cluster.kubernetes.client import find_progress
from facscale.cluster.kubernetes.clusters import get_clusters_path
from facscale.cluster.kubernetes.code_archive import pack_folder
from facscale.cluster.kubernetes.fanout import query_clusters
from facscale.cluster.kubernetes.follow import follow_job
from facscale.cluster.kubernetes.kuberay_client import KubeRayClient
from facscale.cluster.kubernetes.manifest import SubmitOptions
from facscale.cluster.kubernetes.submission import (
    JobSubmission,
    ResourceRequest,
    build_submission,
    check_shared_storage,
    compute_request,
    resolve_spec,
)
from facscale.cluster.kubernetes.submission_policy import SubmitAction, SubmitDecision, decide_submission, resolve_job
from facscale.errors import UserError
from facscale.job.context import INTERRUPTED
from facscale.progress import LogView, format_duration
from facscale.spec import Document, Job, Pipeline

PROGRESS_LINES = 60  # the last lines of a log, in which a progress bar is looked for
RECENT_S = 7 * 86400
WIDTH = 150  # characters of the table where the output is no terminal
COLOURS = {JobState.RUNNING: "green", JobState.FAILED: "red", JobState.QUEUED: "yellow", JobState.STARTING: "yellow"}


class JobHandle(NamedTuple):
    """A job, and the cluster it is on."""

    cluster: ClusterClient
    job: JobStatus


class JobRow(NamedTuple):
    """A job in the list."""

    job: JobStatus
    progress: str


def submit_job(
    spec: Path,
    overrides: Sequence[str],
    *,
    target: ClusterTarget,
    options: SubmitOptions,
    working_dir: Path | None,
    again: bool,
    watch: bool,
) -> int:
    """Submit the job of a spec file and watch it; returns the exit status.

    Raises UserError for whatever is wrong, before anything is created on the cluster.
    """
    cluster = create_client(target)
    code = pack_folder(working_dir) if working_dir else None
    if code and code.left_out:
        names = ", ".join(code.left_out)
        click.echo(f"not uploaded, because passwords and keys have such names: {names}", err=True)
    submission = build_submission(spec, overrides, code=code)
    request = compute_checked_request(spec, overrides, name=submission.name, cluster=cluster)
    decision = decide_submission(submission, cluster.list_jobs(), again=again)
    job = decision.job
    if decision.action is SubmitAction.REPORT_FINISHED and job:
        click.echo(
            f"{job.id} has finished already, on {target.name}, submitted by {job.submitter}. To run it again, add "
            "--again: what is trained already is only evaluated anew"
        )
        return 0
    if decision.action is SubmitAction.REPORT_FAILED and job:
        click.echo(
            f"{job.id} has failed on {target.name} ({job.reason}). To continue from its latest checkpoint, add "
            f"--again. Its log: facscale logs {job.id} {format_options(target)}"
        )
        return 1
    started = start_job(
        submission, decision, cluster=cluster, request=request, options=add_default_queue(options, target)
    )
    return watch_job(cluster, started) if watch else 0


def resolve_target(selector: ClusterSelector) -> ClusterTarget:
    """The cluster that --kube or --ray names. Raises UserError if neither or both are given."""
    if bool(selector.kube) == bool(selector.ray):
        raise UserError(
            "on which cluster? --kube CLUSTER (Kubernetes) or --ray CLUSTER (Ray); "
            "to run it on this machine: facscale run"
        )
    if selector.ray:
        return resolve_ray_target(selector.ray)
    return resolve_kube_target(str(selector.kube), namespace=selector.namespace)


def add_default_queue(options: SubmitOptions, target: ClusterTarget) -> SubmitOptions:
    """The options with the queue of the clusters file, unless the command line names one."""
    default = target.queue if isinstance(target, KubeTarget) else ""
    return SubmitOptions(options.image, options.queue or default, options.group)


def compute_checked_request(
    spec: Path, overrides: Sequence[str], *, name: str, cluster: ClusterClient
) -> ResourceRequest:
    """The workers that a job needs, after all checks of the spec that do without its data. Raises UserError."""
    if not isinstance(cluster, KubeRayClient):  # the environment variables of a Ray cluster cannot be read from here
        return compute_request(parse_checked(resolve_spec(spec, overrides, None), name=name))
    template = cluster.template
    document = resolve_spec(spec, overrides, template.environment, source=f"the environment of {template.source}")
    parsed = parse_checked(document, name=name)
    check_shared_storage(document, template.environment)
    return compute_request(parsed)


def parse_checked(document: Document, *, name: str) -> Job | Pipeline:
    """Parse a spec and check its method, rows and sweep. Raises SpecError."""
    if "source" in document.data:
        from facscale import ingest

        return ingest.configure(document)
    from facscale.job.check import check_spec

    main = check_spec(document, name=name)[0]
    if main.job.sweep:
        from facscale.sweep.space import check_space

        check_space(document, main.job.sweep, name=name)
    return main.job


def start_job(
    submission: JobSubmission,
    decision: SubmitDecision,
    *,
    cluster: ClusterClient,
    request: ResourceRequest,
    options: SubmitOptions,
) -> str:
    """Start a job or attach to the same one that runs; returns its id.

    Raises UserError if a job with another spec is writing to the same checkpoints.
    """
    target, job = cluster.target, decision.job
    if decision.action is SubmitAction.REJECT_CONFLICT and job:
        raise UserError(
            f"{job.id} runs on {target.name} ({job.submitter}) and trains the same: both would write the same "
            f"checkpoints. Cancel it first (facscale cancel {job.id} {format_options(target)}), wait for it, or change "
            "the seed or the name"
        )
    if decision.action is SubmitAction.ATTACH and job:
        check_options(options, job, target=target)
        cluster.complete(submission, job)
        click.echo(
            f"{job.id} is on {target.name} already, submitted by {job.submitter} {format_duration(job.age_s)} ago"
        )
        return job.id
    replaced = ""
    if decision.action is SubmitAction.RESTART and job:
        cluster.remove(job)
        replaced = job.id
    started, is_new = cluster.submit(submission, request=request, options=options, replaced=replaced)
    if not is_new:
        click.echo(f"{started} is on {target.name} already: somebody submitted the same at the same time")
        return started
    workers = (
        f"{request.min_workers}"
        if request.min_workers == request.max_workers
        else f"{request.min_workers} to {request.max_workers}"
    )
    code = f", with the code of {submission.code.folder}" if submission.code else ""
    click.echo(f"{started} is submitted to {target.name}: {workers} workers{code}")
    click.echo(f"  facscale logs {started} --follow {format_options(target)}")
    return started


def check_options(options: SubmitOptions, job: JobStatus, *, target: ClusterTarget) -> None:
    """Raise UserError for options that the running job was not submitted with: they would have no effect on it."""
    for name, value in vars(options).items():
        if value and value != getattr(job.options, name):
            raise UserError(
                f"{job.id} runs on {target.name} already, {job.options.format() or 'without options'}: --{name} {value} "
                f"has no effect on it. Leave the option out to watch it, or first stop it: facscale cancel {job.id} "
                f"{format_options(target)}"
            )


def watch_job(cluster: ClusterClient, job: str) -> int:
    """Follow a job to its end; returns the exit status. Ctrl-C stops watching and leaves the job alone."""
    screen, options = LogView(), format_options(cluster.target)
    try:
        last = follow_job(cluster, job, screen=screen)
    except KeyboardInterrupt:
        screen.close()
        click.echo(
            f"\n{job} keeps running.\n  facscale logs {job} --follow {options}\n  facscale cancel {job} {options}"
        )
        return INTERRUPTED
    screen.close()
    click.echo(format_outcome(last, cluster.target))
    return 0 if last.state is JobState.SUCCEEDED else 1


def format_outcome(job: JobStatus, target: ClusterTarget) -> str:
    """The last line about a job that was watched: how it ended, and how to continue it."""
    attempt = f" at try {job.attempts}" if job.attempts > 1 else ""
    if job.state is JobState.SUCCEEDED:
        return f"{job.id} succeeded{attempt}, {format_duration(job.age_s)} after it was submitted"
    reason = f": {job.reason}" if job.reason else ""
    outcome, again = ("has failed", " --again") if job.state is JobState.FAILED else ("was stopped", "")
    return (
        f"{job.id} {outcome}{attempt}{reason}\n  its checkpoints stay; to continue from the latest: "
        f"facscale submit {job.command} {format_options(target)}{again}"
    )


def format_options(target: ClusterTarget) -> str:
    """The command line options that name a cluster: `--kube munich --namespace faces`."""
    if isinstance(target, RayTarget):
        return f"--ray {target.name}"
    default = resolve_kube_target(target.name).namespace
    return f"--kube {target.name}" + (f" --namespace {target.namespace}" if target.namespace != default else "")


def select_clusters(selector: ClusterSelector) -> dict[str, ClusterTarget]:
    """The named cluster, or all of the clusters file, by name. Raises UserError if there is none."""
    if selector.kube or selector.ray:
        target = resolve_target(selector)
        return {target.name: target}
    clusters = load_targets()
    if not clusters:
        raise UserError(
            f"{get_clusters_path()} names no clusters; write one there (facscale submit --help shows how), "
            "or give --kube or --ray"
        )
    return clusters


def locate_job(name: str, *, selector: ClusterSelector) -> JobHandle:
    """The job that a name or its beginning stands for. Raises UserError if there is none, or several.

    Clusters that do not answer are named on stderr: the job that was meant may be on one of them.
    """
    clusters = select_clusters(selector)
    answers = list_all_jobs(clusters.values())
    match = resolve_job(name, answers)
    for answer in answers.values():
        if isinstance(answer, UserError):
            click.echo(f"no answer: {answer}", err=True)
    cluster = create_client(clusters[match.cluster])
    return JobHandle(cluster, cluster.get_job(match.job.id))


def show_status(name: str, *, selector: ClusterSelector) -> None:
    """Print the state, progress and origin of a job."""
    cluster, job = locate_job(name, selector=selector)
    lines = {
        "state": f"{job.state}{f', try {job.attempts}' if job.attempts > 1 else ''}",
        "because" if job.state.is_terminal else "waits for": job.reason,
        "progress": format_progress(cluster, job),
        "workers": job.workers,
        "submitted": f"{format_duration(job.age_s)} ago by {job.submitter or 'somebody'}",
        "submit": job.command,
    }
    click.echo(f"{job.id} on {cluster.target.name}")
    for title, text in lines.items():
        if text:
            click.echo(f"  {title:<10} {text}")
    if not job.state.is_terminal:
        click.echo(f"  facscale logs {job.id} --follow {format_options(cluster.target)}")


def show_log(name: str, *, selector: ClusterSelector, follow: bool) -> int:
    """Print the log of a job, and follow it to the job's end if wanted; returns the exit status."""
    cluster, job = locate_job(name, selector=selector)
    if follow:
        return watch_job(cluster, job.id)
    lines = cluster.get_log(job.id)
    for line in lines:
        click.echo(line)
    if lines:
        return 0
    reason = f": {job.reason}" if job.reason else ""
    if job.state.is_terminal:
        click.echo(
            f"{job.id} is {job.state}{reason}, and its log is gone with its pod; MLflow keeps its results", err=True
        )
        return 1
    click.echo(f"No log output yet; job {job.id} is {job.state}{reason}", err=True)
    return 0


def cancel_job(name: str, *, selector: ClusterSelector) -> None:
    """Stop a job, unless it has ended."""
    cluster, job = locate_job(name, selector=selector)
    if job.state.is_terminal:
        click.echo(f"{job.id} is over: it {'was' if job.state is JobState.STOPPED else 'has'} {job.state}")
        return
    click.echo(f"stopping {job.id} on {cluster.target.name} ...")
    cluster.cancel(job.id)
    click.echo(
        "stopped; its checkpoints stay. To continue from the latest: "
        f"facscale submit {job.command} {format_options(cluster.target)}"
    )


def show_jobs(*, selector: ClusterSelector, everything: bool) -> int:
    """Print a table of jobs: clusters in the order of the file, on each the newest job first.

    Returns the exit status: 1 if a cluster did not answer, so that its jobs are missing.
    """
    answers = query_clusters(
        select_clusters(selector), lambda target: list_rows(create_client(target), everything=everything)
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("cluster", "job", "state", "progress", "workers", "age", "who"):
        table.add_column(title, overflow="fold")
    errors = {cluster: answer for cluster, answer in answers.items() if isinstance(answer, UserError)}
    for cluster, rows in answers.items():
        if isinstance(rows, UserError):
            continue
        if not rows:
            table.add_row(cluster, "no jobs")
        for job, progress_text in rows:
            colour = COLOURS.get(job.state, "default")
            cells = map(escape, (progress_text, job.workers, format_duration(job.age_s), job.submitter))
            table.add_row(cluster, job.id, f"[{colour}]{job.state}[/]", *cells)
    Console(width=WIDTH if not os.isatty(1) else None, highlight=False).print(table)
    for cluster, error in errors.items():
        click.echo(click.style(f"{cluster}: ", fg="red") + str(error).removeprefix(f"{cluster}: "), err=True)
    return 1 if errors else 0


def list_rows(cluster: ClusterClient, *, everything: bool) -> list[JobRow]:
    """The jobs of one cluster with their progress; without `everything`, no jobs that ended and are over a week old."""
    jobs = [job for job in cluster.list_jobs() if everything or not job.state.is_terminal or job.age_s < RECENT_S]
    return [JobRow(job, format_progress(cluster, job)) for job in jobs]


def format_progress(cluster: ClusterClient, job: JobStatus) -> str:
    """The progress of a running job, from the last bar in its log: `50 % of clp`; "" if there is none."""
    bar = find_progress(cluster.get_log(job.id, last=PROGRESS_LINES)) if job.state is JobState.RUNNING else None
    return f"{100 * bar.done // bar.total} % of {bar.title}" if bar else ""
