"""Commands about clusters and this machine: `doctor`, `demo`, `init` and `completion`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from facscale.cli.arguments import KUBE, NAMESPACE, NAMESPACE_RULE, OVERRIDES, Command, filter_ray_output
from facscale.cli.completion import SHELLS, build_script, complete_spec


@click.command(cls=Command, rules=(NAMESPACE_RULE,))
@click.argument("spec", type=click.Path(path_type=Path), required=False, shell_complete=complete_spec)
@OVERRIDES
@KUBE
@NAMESPACE
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Code to upload with the job; without it, only the size of the current folder is checked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each finding as a line of JSON.")
@filter_ray_output
def doctor_command(
    *,
    spec: Path | None,
    overrides: tuple[str, ...],
    kube: str | None,
    namespace: str,
    working_dir: Path | None,
    as_json: bool,
) -> None:
    """Check whether a cluster is fit for a job, before it holds GPUs.

    \b
        facscale doctor jobs/clp.yaml
        facscale doctor jobs/clp.yaml --kube munich
        ray job submit -- facscale doctor              # on the cluster, if this machine has other versions than it

    Each finding is printed at once, each problem with its remedy. Without --kube, the Ray cluster that `facscale run`
    would use: its nodes (software, GPUs, limits, clocks), and from them the storage of SPEC's data and checkpoints with
    its speed; MLflow and the right to write to it; what an upload would contain. With --kube, a namespace of a
    Kubernetes cluster: KubeRay, the chart, permissions, queue, GPU nodes, images, secrets, and whether SPEC fits. Exit
    status 1: there are problems.
    """
    from facscale.doctor import DiagnosticContext
    from facscale.doctor.output import print_findings
    from facscale.spec import Job, Pipeline, parse, read_spec

    if kube:
        from facscale.cluster.kubernetes import KubeApi, resolve_kube_target

        api = KubeApi(resolve_kube_target(kube, namespace=namespace))
        context = DiagnosticContext(api=api, spec=spec, overrides=overrides, code_folder=working_dir)
    else:
        context = DiagnosticContext(code_folder=working_dir)
        document = read_spec(spec, overrides) if spec else None
        if document and "source" in document.data:
            context.pipeline = parse(document, Pipeline)
        elif document:
            context.job = parse(document, Job)
    sys.exit(print_findings(context, as_json=as_json))


@click.command(cls=Command)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, writable=True),
    default=Path("demo"),
    show_default=True,
    help="Folder for the data, the runs and the servers' files.",
)
@click.option("--stop", is_flag=True, help="Stop the Ray cluster and the MLflow server that the demo left running.")
def demo_command(folder: Path, *, stop: bool) -> None:
    """Run a small example of the main job on this machine.

    \b
        facscale demo
        facscale demo --stop

    From synthetic faces to cross-validated F1, in about ten minutes.
    """
    from facscale.cli.demo import run_demo, stop_demo

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    stop_demo(folder) if stop else sys.exit(run_demo(folder))


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="[DIR]", default=Path())
def init_command(folder: Path) -> None:
    """Copy facscale's jobs and pipelines to a folder of your own.

    \b
        facscale init faces
        cd faces
        facscale check jobs/clp.yaml

    DIR is the current folder if it is left out. The files are the papers' trainings and the data sets' pipelines:
    change them, or extend one in a new file beside it (`extends: clp.yaml`). If DIR has a file of the same name with
    other content, nothing is written.
    """
    from facscale.cli.init import copy_shipped

    copy_shipped(folder)


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that makes your shell complete commands.

    \b
        facscale completion bash >> ~/.bashrc
        facscale completion zsh >> ~/.zshrc
        facscale completion fish > ~/.config/fish/completions/facscale.fish

    Then start a new shell. Tab completes commands, options, job files, their keys (`train.epochs=`), the names of
    methods and those of your clusters.
    """
    click.echo(build_script(context.find_root().command, shell), nl=False)
