"""The user's clusters file: ~/.config/facscale/clusters.yaml, or the file that $FACSCALE_CLUSTERS names.

clusters:
  munich: {context: gke-munich, namespace: facscale}   # Kubernetes: a context of the kubeconfig
  lab: {address: "http://10.1.2.3:8265", token_file: ~/.ray/auth_token}   # a Ray cluster
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import NonNegativeFloat, model_validator

from facscale.spec import Block, SpecError, parse, read_spec, suggest_nearest

DEFAULT_PATH = "~/.config/facscale/clusters.yaml"
SCHEMES = ("http://", "https://")


class ClusterEntry(Block):
    """One cluster: a `context` and its options, or an `address` and its options."""

    context: str = ""  # of the kubeconfig
    namespace: str = ""  # "": the context's own
    template: str = ""  # ConfigMap with the chart's RayJob, where the namespace holds several charts
    queue: str = ""  # Kueue's LocalQueue, if not the one that the chart names
    address: str = ""  # of a Ray dashboard: http://host:8265
    token_file: str = ""  # holds Ray's token, as RAY_AUTH_TOKEN_PATH does
    gpu_price: NonNegativeFloat = 0.0  # of a GPU for an hour, for `facscale rehearse`; 0: unknown
    node_price: NonNegativeFloat = 0.0  # of a node for an hour

    @model_validator(mode="after")
    def _check_kind(self) -> ClusterEntry:
        kube_options, ray_options = [self.namespace, self.template, self.queue], [self.token_file]
        if bool(self.context) == bool(self.address):
            raise ValueError("a cluster has either a context (Kubernetes) or an address (Ray)")
        if any(ray_options if self.context else kube_options):
            raise ValueError("context takes namespace, template and queue; address takes token_file")
        if self.address and not self.address.startswith(SCHEMES):
            raise ValueError("address is that of a Ray dashboard, as in http://10.1.2.3:8265")
        return self


class ClustersFile(Block):
    """The content of the clusters file."""

    clusters: dict[str, ClusterEntry]


@dataclass(frozen=True)
class KubeTarget:
    """A namespace of a Kubernetes cluster."""

    name: str  # the user's name for it
    context: str  # of the kubeconfig
    namespace: str = ""  # "": the context's own
    template: str = ""
    queue: str = ""


@dataclass(frozen=True)
class RayTarget:
    """A Ray cluster with a dashboard."""

    name: str  # the user's name for it, or its address
    address: str  # URL of the dashboard
    token_file: str = ""


ClusterTarget = KubeTarget | RayTarget


def get_clusters_path() -> Path:
    """Return the path of the clusters file, which need not exist."""
    return Path(os.environ.get("FACSCALE_CLUSTERS") or DEFAULT_PATH).expanduser()


def load_targets() -> dict[str, ClusterTarget]:
    """Load all clusters of the file by name; empty without a file. Raises SpecError for an invalid one."""
    return {name: _build_target(name, entry) for name, entry in _load_entries().items()}


def load_prices(name: str) -> tuple[float, float]:
    """Load the prices of an hour of a GPU and of a node on a cluster; 0 where the file has none. Raises SpecError."""
    entries = _load_entries()
    return (entries[name].gpu_price, entries[name].node_price) if name in entries else (0.0, 0.0)


def resolve_kube_target(name: str, *, namespace: str = "") -> KubeTarget:
    """Resolve `--kube NAME`: a cluster of the file, else a context of the kubeconfig. Raises SpecError.

    `namespace` replaces the one of the file.
    """
    entry = load_targets().get(name)
    if isinstance(entry, RayTarget):
        raise SpecError(
            f"{get_clusters_path()}: {name} is a Ray cluster, not one of Kubernetes: commands that reach it take --ray "
            f"{name}"
        )
    target = entry or KubeTarget(name, context=name)
    return replace(target, namespace=namespace) if namespace else target


def resolve_ray_target(name: str) -> RayTarget:
    """Resolve `--ray NAME`: a cluster of the file, else the address of a dashboard. Raises SpecError."""
    targets = load_targets()
    entry = targets.get(name)
    if isinstance(entry, KubeTarget):
        raise SpecError(f"{get_clusters_path()}: {name} is a Kubernetes cluster: --kube {name}")
    if entry is None and not name.startswith(SCHEMES):
        names = [target.name for target in targets.values() if isinstance(target, RayTarget)]
        raise SpecError(
            f'{get_clusters_path()} has no Ray cluster "{name}"{suggest_nearest(name, names)}; add it there with its '
            "address, or use --ray http://HOST:8265"
        )
    return entry or RayTarget(name, address=name)


def _load_entries() -> dict[str, ClusterEntry]:
    path = get_clusters_path()
    if not path.exists() and "FACSCALE_CLUSTERS" not in os.environ:
        return {}
    return parse(read_spec(path), ClustersFile).clusters


def _build_target(name: str, entry: ClusterEntry) -> ClusterTarget:
    if entry.address:
        return RayTarget(name, address=entry.address.rstrip("/"), token_file=entry.token_file)
    return KubeTarget(name, entry.context, namespace=entry.namespace, template=entry.template, queue=entry.queue)
