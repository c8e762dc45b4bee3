"""`facscale rehearse` and `doctor`: what to know before GPUs are held."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from facscale.cli.arguments import KUBE, NAMESPACE, OF_KUBERNETES, OVERRIDES, SPEC, Amount, Command, on_ray
from facscale.spec import read


@click.command(cls=Command)
@SPEC
@OVERRIDES
@click.option(
    "--seconds", type=Amount(), default=60.0, show_default=True, help="How long it trains, warm-up not counted."
)
@click.option("--all", "everything", is_flag=True, help="Rehearse every row and stage, not the main row alone.")
@click.option("--price", type=Amount(), metavar="MONEY", help="Of one GPU for an hour; else the clusters file's.")
@click.option("--node-price", type=Amount(), metavar="MONEY", help="Of one node for an hour; else the clusters file's.")
@on_ray
def rehearse(
    spec: Path, overrides: tuple[str, ...], seconds: float, everything: bool,  # noqa: FBT001 - a flag of the command line
    price: float | None, node_price: float | None,
) -> None:  # fmt: skip
    """Train a job for a minute on its real workers; say what holds it up, and what the whole of it will take.

    Measured are training itself and each of its parts alone: reading, decoding, the model, the exchange of gradients.
    From that come the bottleneck with what mends it, images a second, memory, and hours and cost to the end, of all rows,
    seeds and folds. Nothing is kept, and MLflow hears nothing. The cluster is found as `facscale run` finds it; where your
    clusters file has its name (FACSCALE_CLUSTER) with gpu_price or node_price, hours become money.

    \b
        facscale rehearse jobs/clp.yaml
        facscale rehearse jobs/clp.yaml cluster.workers=8 data.threads=8 --price 2.5
        ray job submit -- facscale rehearse jobs/clp.yaml
    """
    document = read(spec, overrides)
    from facscale.cli.rehearse import rehearse as rehearse_
    from facscale.profile import Price

    paid = Price(gpu=price or 0.0, node=node_price or 0.0)
    sys.exit(rehearse_(document, name=spec.stem, seconds=seconds, price=paid, everything=everything))


@click.command(cls=Command, rules=(OF_KUBERNETES,))
@click.argument("spec", type=click.Path(path_type=Path), required=False)
@OVERRIDES
@KUBE
@NAMESPACE
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Code that is to go along; without it, this folder is only weighed.",
)
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each finding, for other programs.")
@on_ray
def doctor(
    spec: Path | None, overrides: tuple[str, ...], kube: str | None, namespace: str, working_dir: Path | None,
    as_json: bool,  # noqa: FBT001 - a flag of the command line
) -> None:  # fmt: skip
    """Examine a cluster before GPUs are held: each finding as it comes, each problem with what mends it.

    The Ray cluster at hand, found as `facscale run` finds it: its nodes (software, GPUs, limits, clocks), and from them
    the storage of SPEC's data and checkpoints with its speed; MLflow with our right to write; what an upload would carry.
    With --kube a namespace of a Kubernetes cluster: KubeRay, the chart, our rights, queue, GPU nodes, images, secrets;
    whether SPEC fits. Exit status 1 means problems.

    \b
        facscale doctor jobs/clp.yaml
        facscale doctor jobs/clp.yaml --kube munich
        ray job submit -- facscale doctor              # from inside, where this machine has not the cluster's versions
    """
    from facscale.cli.doctor import examine_cluster, examine_namespace

    if kube:
        sys.exit(
            examine_namespace(spec, overrides, kube=kube, namespace=namespace, folder=working_dir, as_json=as_json)
        )
    sys.exit(examine_cluster(spec, overrides, folder=working_dir, as_json=as_json))


COMMANDS = (rehearse, doctor)
