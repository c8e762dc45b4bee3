"""Who is examined: a Ray cluster or a Kubernetes namespace, and the job that is to run there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from facscale.spec import Job, Pipeline

NODE_S = 90.0  # patience with a node, which may have to start a process first


class NotNowError(Exception):
    """An earlier finding says already why this cannot be looked at."""


@dataclass
class Patient:
    """What checks look at. `state`: what earlier checks have found out, by name; without it `known` ends a check."""

    job: Job | None = None
    pipeline: Pipeline | None = None
    api: Any = None  # facscale.cluster.kubernetes.Api, where a namespace is examined
    spec: Path | None = None  # of the job, where the namespace's variables are needed to read it
    overrides: tuple[str, ...] = ()
    folder: Path | None = None  # the code that goes along; None: nobody has said that any does
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Literal["ray", "kube"]:
        """What kind of patient it is."""
        return "kube" if self.api is not None else "ray"

    def known(self, name: str) -> Any:
        """What an earlier check has left. Raises NotNowError where it has failed."""
        if name not in self.state:
            raise NotNowError(name)
        return self.state[name]

    @property
    def urls(self) -> list[str]:
        """All data sets that the job reads."""
        if self.job is None:
            return []
        given = [self.job.data.unlabelled, self.job.data.labelled]
        given += [self.job.evaluate.transfer, self.job.evaluate.expressions]
        found = [url for urls in given for url in ((urls,) if isinstance(urls, str) else urls)]
        return list(dict.fromkeys(found))

    @property
    def storage(self) -> str:
        """Where checkpoints go; a pipeline's shards."""
        if self.pipeline is not None:
            return self.pipeline.output
        return (self.job or Job.model_validate({"method": {"name": "none"}})).cluster.storage

    @property
    def tracker(self) -> str:
        """MLflow's address; "" where jobs keep a file beside their runs."""
        own = self.job.track.uri if self.job else ""
        return own or os.environ.get("MLFLOW_TRACKING_URI", "")

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """Ray's living nodes, this one first. Raises NotNowError without Ray."""
        import ray

        self.known("ray")
        here = ray.get_runtime_context().get_node_id()
        alive = [node for node in ray.nodes() if node["Alive"]]
        return named(sorted(alive, key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"])))

    def on_each_node(self, call: Callable[..., Any], *words: Any, **options: Any) -> Mapping[str, Any]:
        """What `call` returns on each node, by the node's name; an exception where it failed or gave no answer in time."""
        from facscale.doctor.remote import ask_nodes

        return ask_nodes(call, *words, nodes=self.nodes, patience_s=NODE_S, **options)


def named(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nodes as Ray tells them, with a "Name" that none shares: host and address, and the id where several have those."""
    found: list[dict[str, Any]] = []
    for node in nodes:
        host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
        name = host if host == address else f"{host} ({address})"
        taken = any(other["Name"] == name for other in found)
        found.append({**node, "Name": f"{name} {node['NodeID'][:6]}" if taken else name})
    return found
