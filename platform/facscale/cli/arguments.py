"""What several commands take."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

SPEC = click.argument("spec", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
KUBE = click.option("--kube", metavar="CLUSTER", help="A name of your clusters file, or a context of your kubeconfig.")
RAY = click.option(
    "--ray", metavar="CLUSTER", help="A name of your clusters file, or the http:// address of a dashboard."
)
NAMESPACE = click.option(
    "--namespace", default="", metavar="NAME", help="With --kube, instead of the cluster's usual one."
)


class At(NamedTuple):
    """The cluster that a command line names; all None where it names none."""

    kube: str | None
    ray: str | None
    namespace: str


def somewhere(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a cluster, as its argument `at`."""

    @KUBE
    @RAY
    @NAMESPACE
    @wraps(command)
    def taking(*args: Any, kube: str | None, ray: str | None, namespace: str, **others: Any) -> Any:
        return command(*args, at=At(kube, ray, namespace), **others)

    return taking
