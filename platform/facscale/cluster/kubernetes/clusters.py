"""The one small file that names a user's clusters: ~/.config/facscale/clusters.yaml, or what $FACSCALE_CLUSTERS says.

clusters:
  munich: {context: gke-munich, namespace: facscale}   # Kubernetes: a context of the kubeconfig
  lab: {address: "http://10.1.2.3:8265", token_file: ~/.ray/auth_token}   # a Ray cluster
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import NonNegativeFloat, model_validator

from facscale.spec import Block, SpecError, nearest, parse, read

USUAL = "~/.config/facscale/clusters.yaml"
ADDRESSES = ("http://", "https://")


class Entry(Block):
    """One cluster: a `context` with what belongs to it, or an `address`."""

    context: str = ""  # of the kubeconfig
    namespace: str = ""  # "": the context's own
    template: str = ""  # ConfigMap with the chart's RayJob, where the namespace holds several charts
    queue: str = ""  # Kueue's LocalQueue, if not the one that the chart names
    address: str = ""  # of a Ray dashboard: http://host:8265
    token_file: str = ""  # holds Ray's token, as RAY_AUTH_TOKEN_PATH does
    gpu_price: NonNegativeFloat = 0.0  # of a GPU for an hour, for `facscale rehearse`; 0: not said
    node_price: NonNegativeFloat = 0.0  # of a node for an hour

    @model_validator(mode="after")
    def _is_one_kind(self) -> Entry:
        kube, ray = [self.namespace, self.template, self.queue], [self.token_file]
        if bool(self.context) == bool(self.address):
            raise ValueError("a cluster has either a context (Kubernetes) or an address (Ray)")
        if any(ray if self.context else kube):
            raise ValueError("context takes namespace, template and queue; address takes token_file")
        if self.address and not self.address.startswith(ADDRESSES):
            raise ValueError("address is that of a Ray dashboard, as in http://10.1.2.3:8265")
        return self


class Clusters(Block):
    """The whole file."""

    clusters: dict[str, Entry]


@dataclass(frozen=True)
class KubePlace:
    """A namespace of a Kubernetes cluster."""

    name: str  # what the user calls it
    context: str
    namespace: str = ""  # "": the context's own
    template: str = ""
    queue: str = ""


@dataclass(frozen=True)
class RayPlace:
    """A Ray cluster with a dashboard."""

    name: str
    address: str
    token_file: str = ""


Place = KubePlace | RayPlace


def file() -> Path:
    """Where the clusters are written; it need not exist."""
    return Path(os.environ.get("FACSCALE_CLUSTERS") or USUAL).expanduser()


def places() -> dict[str, Place]:
    """All clusters of the file by name; none without a file. Raises SpecError for one that is wrong."""
    return {name: _place(name, entry) for name, entry in _entries().items()}


def prices(name: str) -> tuple[float, float]:
    """What an hour of a GPU and of a node costs on a cluster of the file; 0 where it does not say. Raises SpecError."""
    entries = _entries()
    return (entries[name].gpu_price, entries[name].node_price) if name in entries else (0.0, 0.0)


def kube_place(name: str, *, namespace: str = "") -> KubePlace:
    """What `--kube NAME` means: a cluster of the file, else a context of the kubeconfig. Raises SpecError.

    `namespace`: instead of the usual one of that cluster.
    """
    found = places().get(name)
    if isinstance(found, RayPlace):
        raise SpecError(
            f"{file()}: {name} is a Ray cluster, not one of Kubernetes: commands that reach it take --ray {name}"
        )
    place = found or KubePlace(name, context=name)
    return replace(place, namespace=namespace) if namespace else place


def ray_place(name: str) -> RayPlace:
    """What `--ray NAME` means: a cluster of the file, else an address. Raises SpecError."""
    known = places()
    found = known.get(name)
    if isinstance(found, KubePlace):
        raise SpecError(f"{file()}: {name} is a Kubernetes cluster: --kube {name}")
    if found is None and not name.startswith(ADDRESSES):
        lab = [other for other, place in known.items() if isinstance(place, RayPlace)]
        raise SpecError(
            f'{file()} has no Ray cluster "{name}"{nearest(name, lab)}; write it there with its address, or say '
            "--ray http://HOST:8265"
        )
    return found or RayPlace(name, address=name)


def _entries() -> dict[str, Entry]:
    if not file().exists() and "FACSCALE_CLUSTERS" not in os.environ:
        return {}
    return parse(read(file()), Clusters).clusters


def _place(name: str, entry: Entry) -> Place:
    if entry.address:
        return RayPlace(name, address=entry.address.rstrip("/"), token_file=entry.token_file)
    return KubePlace(name, entry.context, namespace=entry.namespace, template=entry.template, queue=entry.queue)
