"""The chart's manifests for tests: result by a value file and changes of it, and valid for Kubernetes or not."""

from __future__ import annotations

import functools
from typing import Any

import kubernetes_validate
from helm.chart import load_values, render_objects
from kubernetes_validate import utils

Doc = dict[str, Any]

OLDEST, NEWEST = "1.29", "1.33"  # Kubernetes: the chart's kubeVersion, and the newest that we look at
FOREIGN = {
    "RayCluster",
    "RayJob",
    "RayService",
    "PodMonitor",
    "PrometheusRule",
    "ServiceMonitor",
}  # kinds of operators, unknown to Kubernetes itself

utils.schema_contents = functools.cache(utils.schema_contents)  # else 3 MB are read for each object anew


@functools.cache
def load_objects(name: str) -> list[Doc]:
    """All objects by one of the chart's value files. Everybody gets the same ones: change none."""
    return render_objects(load_values(name))


def change_values(name: str, changes: Doc) -> Doc:
    """Values of a file with others for some paths, as {"ray.cluster.enabled": False}."""
    values = load_values(name)
    for path, value in changes.items():
        for key in reversed(path.split(".")):
            value = {key: value}  # noqa: PLW2901 - wrapped, from the inside outwards
        values = merge_values(values, value)
    return values


def merge_values(base: Doc, patch: Doc) -> Doc:
    """As Helm merges value files."""
    result = dict(base)
    for key, value in patch.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge_values(result[key], value) if both else value
    return result


def validate(doc: Doc, version: str = NEWEST) -> None:
    """Raise for what an API server would refuse, unknown fields included; other operators' kinds pass."""
    if doc["kind"] not in FOREIGN:
        kubernetes_validate.validate(doc, version, strict=True)


def labels(docs: list[Doc]) -> list[str]:
    """Kind/name of each."""
    return [f"{doc['kind']}/{doc['metadata']['name']}" for doc in docs]


def find_object(docs: list[Doc], label: str) -> Doc:
    """The object Kind/name."""
    return docs[labels(docs).index(label)]
