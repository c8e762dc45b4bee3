"""`facscale submit`: check here, ask the cluster, make, watch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from facscale.cli.arguments import At
from facscale.cluster.kubernetes import Host, KubePlace, Place, RayPlace, Standing, State, host, kube_place, ray_place
from facscale.cluster.kubernetes.code import pack
from facscale.cluster.kubernetes.deciding import Decision, Do, decide
from facscale.cluster.kubernetes.follow import follow
from facscale.cluster.kubernetes.manifest import Wish
from facscale.cluster.kubernetes.order import Need, Order, need, order, refuse_unshared, resolved
from facscale.cluster.kubernetes.rayjobs import RayJobs
from facscale.errors import UserError
from facscale.job.run import INTERRUPTED
from facscale.progress import Tail, duration
from facscale.spec import Document, Job, Pipeline

TOLD = {
    Do.TELL_FINISHED: "{job.id} has finished already, on {place}, submitted by {job.who}. Run it again with --again: what is "
    "trained is only judged anew",
    Do.TELL_FAILED: "{job.id} has failed on {place} ({job.why}). Go on from its latest checkpoint with --again; what it said: "
    "facscale logs {job.id} {where}",
}


def submit_job(
    spec: Path,
    overrides: Sequence[str],
    *,
    place: Place,
    wish: Wish,
    working_dir: Path | None,
    again: bool,
    watch: bool,
) -> int:
    """From a file to a job elsewhere; the exit status. Raises UserError where anything is wrong, before it is made."""
    cluster = host(place)
    made = order(spec, overrides, code=pack(working_dir) if working_dir else None)
    needs = checked(spec, overrides, name=made.job, cluster=cluster)
    decision = decide(made, cluster.jobs(), again=again)
    if decision.do in TOLD:
        click.echo(TOLD[decision.do].format(job=decision.about, place=place.name, where=where(place)))
        return 0 if decision.do is Do.TELL_FINISHED else 1
    job = start(made, decision, cluster=cluster, needs=needs, wish=with_queue(wish, place))
    return watched(cluster, job) if watch else 0


def one_place(at: At) -> Place:
    """The cluster that is meant. Raises UserError for none, or two."""
    if bool(at.kube) == bool(at.ray):
        raise UserError(
            "say where: --kube CLUSTER (Kubernetes) or --ray CLUSTER (a Ray cluster); here it is facscale run"
        )
    if at.ray:
        return ray_place(at.ray)
    return kube_place(str(at.kube), namespace=at.namespace)


def with_queue(wish: Wish, place: Place) -> Wish:
    """The queue of the clusters file, where the command line names none."""
    known = place.queue if isinstance(place, KubePlace) else ""
    return Wish(wish.image, wish.queue or known, wish.group)


def checked(spec: Path, overrides: Sequence[str], *, name: str, cluster: Host) -> Need:
    """What the job needs, once everything is right that can be seen without its data. Raises UserError."""
    if not isinstance(cluster, RayJobs):  # its environment is not ours to see
        return need(parsed(resolved(spec, overrides, None), name=name))
    template = cluster.template
    document = resolved(spec, overrides, template.environment, told_by=f"the environment of {template.source}")
    found = parsed(document, name=name)
    refuse_unshared(document, template.environment)
    return need(found)


def parsed(document: Document, *, name: str) -> Job | Pipeline:
    """The spec as a model; its method, its rows, its sweep are tried. Raises SpecError."""
    if "source" in document.data:
        from facscale import ingest

        return ingest.configure(document)
    from facscale.job.check import checked as checked_rows

    main = checked_rows(document, name=name)[0]
    if main.job.sweep:
        from facscale.sweep.space import refuse_impossible

        refuse_impossible(document, main.job.sweep, name=name)
    return main.job


def start(made: Order, decision: Decision, *, cluster: Host, needs: Need, wish: Wish) -> str:
    """Make it, or say that it is there; its id. Raises UserError where another spec writes to the same checkpoints."""
    place, about = cluster.place, decision.about
    if decision.do is Do.TELL_RIVAL and about:
        raise UserError(
            f"{about.id} runs on {place.name} ({about.who}) and trains the same: both would write the same checkpoints. "
            f"Cancel it first (facscale cancel {about.id} {where(place)}), wait for it, or change the seed or the name"
        )
    if decision.do is Do.ATTACH and about:
        click.echo(f"{about.id} is on {place.name} already, submitted by {about.who} {duration(about.age_s)} ago")
        return about.id
    if decision.do is Do.AGAIN and about:
        cluster.remove(about.id)
    job = cluster.submit(made, need=needs, wish=wish)
    workers = f"{needs.fewest}" if needs.fewest == needs.most else f"{needs.fewest} to {needs.most}"
    code = f", with the code of {made.code.folder}" if made.code else ""
    click.echo(f"{job} is submitted to {place.name}: {workers} workers{code}")
    click.echo(f"  facscale logs {job} --follow {where(place)}")
    return job


def watched(cluster: Host, job: str) -> int:
    """Watch it to its end; the exit status. Ctrl-C leaves it alone."""
    screen, place = Tail(), cluster.place
    try:
        last = follow(cluster, job, screen=screen)
    except KeyboardInterrupt:
        screen.close()
        click.echo(
            f"\n{job} goes on without you.\n  facscale logs {job} --follow {where(place)}\n  facscale cancel {job} {where(place)}"
        )
        return INTERRUPTED
    screen.close()
    click.echo(ended(last, place))
    return 0 if last.state is State.SUCCEEDED else 1


def ended(job: Standing, place: Place) -> str:
    """The last line."""
    tries = f" at try {job.tries}" if job.tries > 1 else ""
    if job.state is State.SUCCEEDED:
        return f"{job.id} succeeded{tries}, {duration(job.age_s)} after it was submitted"
    why = f": {job.why}" if job.why else ""
    again = " --again" if job.state is State.FAILED else ""
    return (
        f"{job.id} {'has failed' if again else 'was stopped'}{tries}{why}\n  its checkpoints stay; go on from the latest: "
        f"facscale submit {job.words} {where(place)}{again}"
    )


def where(place: Place) -> str:
    """The options that name a place."""
    if isinstance(place, RayPlace):
        return f"--ray {place.name}"
    usual = kube_place(place.name).namespace
    return f"--kube {place.name}" + (f" --namespace {place.namespace}" if place.namespace != usual else "")
