"""Context of a diagnosis: the Ray cluster or Kubernetes namespace, and the job to run on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from facscale.spec import Job, Pipeline

NODE_TIMEOUT_S = 90.0  # includes the start of a worker process
TargetKind = Literal["ray", "kube"]


class PrerequisiteError(Exception):
    """A check cannot run, because an earlier one, which has reported the reason, failed."""


@dataclass
class DiagnosticContext:
    """What checks read, and the results that they leave for later checks."""

    job: Job | None = None
    pipeline: Pipeline | None = None
    api: Any = None  # facscale.cluster.kubernetes.KubeApi of a namespace; None: the Ray cluster is checked
    spec: Path | None = None  # of the job, to be read with the variables of the namespace
    overrides: tuple[str, ...] = ()
    code_folder: Path | None = None  # of --working-dir; None: not given
    results: dict[str, Any] = field(default_factory=dict)  # of earlier checks, by name; read with `require`

    @property
    def kind(self) -> TargetKind:
        """The kind of target that is checked."""
        return "kube" if self.api is not None else "ray"

    def require(self, name: str) -> Any:
        """Return the result of an earlier check. Raises PrerequisiteError if there is none."""
        if name not in self.results:
            raise PrerequisiteError(name)
        return self.results[name]

    @property
    def data_urls(self) -> list[str]:
        """URLs of all data sets that the job reads."""
        if self.job is None:
            return []
        fields = [self.job.data.unlabelled, self.job.data.labelled]
        fields += [self.job.evaluate.transfer, self.job.evaluate.expressions]
        urls = [url for value in fields for url in ((value,) if isinstance(value, str) else value)]
        return list(dict.fromkeys(urls))

    @property
    def storage_url(self) -> str:
        """Where the job writes checkpoints, or the pipeline shards; without either, the default storage."""
        if self.pipeline is not None:
            return self.pipeline.output
        return (self.job or Job.model_validate({"method": {"name": "none"}})).cluster.storage

    @property
    def tracking_uri(self) -> str:
        """MLflow's address; "" where jobs log to a file beside their runs."""
        uri = self.job.track.uri if self.job else ""
        return uri or os.environ.get("MLFLOW_TRACKING_URI", "")

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """Ray's live nodes with unique names, this one first. Raises PrerequisiteError without Ray."""
        import ray

        self.require("ray")
        here = ray.get_runtime_context().get_node_id()
        alive = [node for node in ray.nodes() if node["Alive"]]
        return name_nodes(sorted(alive, key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"])))

    def run_on_nodes(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Mapping[str, Any]:
        """Run a function on each node; return by the node's name its result, or the exception with which it failed."""
        from facscale.doctor.remote import run_on_nodes

        return run_on_nodes(function, *arguments, nodes=self.nodes, timeout_s=NODE_TIMEOUT_S, **options)


def name_nodes(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add a unique "Name" to nodes as `ray.nodes()` gives them: host and address, and the id where those are equal."""
    named: list[dict[str, Any]] = []
    for node in nodes:
        host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
        name = host if host == address else f"{host} ({address})"
        is_taken = any(other["Name"] == name for other in named)
        named.append({**node, "Name": f"{name} {node['NodeID'][:6]}" if is_taken else name})
    return named
