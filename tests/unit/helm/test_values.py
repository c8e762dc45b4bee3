"""Values: a wrong key is refused wherever it stands, and so are values that do not go together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml
from helm.chart import CHART, render, render_objects

from manifests import change_values

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OPEN = {
    "nodeAffinity",
    "podAffinity",
    "podAntiAffinity",
    "volume",
    "volumeMount",
    "global",
}  # Kubernetes' and Helm's own


@pytest.mark.parametrize(
    "path",
    [
        "rayy",
        "ray.workers",
        "ray.head.replicas",
        "ray.head.resources.cpus",
        "ray.groups.gpu.maxReplica",
        "ray.groups.gpu.affinity.nodeAfinity",
        "ray.groupDefaults.gpu",
        "ray.autoscaler.version",
        "mlflow.auth.password",
        "mlflow.database.password",
        "mlflow.ingress.hosts",
        "storage.secretKey",
        "postgres.password",
        "networkPolicy.storage.from",
        "networkPolicy.dns.to.0",
        "kueue.queue",
        "serviceAccounts.create",
    ],
)
def test_a_wrong_key_is_refused(path):
    values = change_values("values-gpu.yaml", {path: "x"})
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert path.split(".")[-1] in str(refused.value) or "want array" in str(refused.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ray.groups.gpu.gpus", "one"),
        ("ray.groups.gpu.memory", "48 GB"),
        ("ray.groups.gpu.tolerations", [{"key": "a", "effect": "Never"}]),
        ("ray.groups", {"GPU_A": {"cpus": 1, "memory": "1Gi"}}),
        ("ray.faultTolerance.redisAddress", "redis://:password@host:6379"),
        ("tracking.uri", "https://user:password@mlflow.example.org"),
        ("mlflow.database.host", "user:password@host"),
        ("storage.data", "/data"),
        ("environment", {"AWS_SECRET_ACCESS_KEY": "x", "WANDB_TOKEN": "x"}),
        ("networkPolicy.mlflowFrom", [{"ipBlock": {"cidr": "everywhere"}}]),
        ("researchers", [{"kind": "Everybody", "name": "x"}]),
        ("mlflow.replicas", 0),
        ("ray.groups.head", {"cpus": 1, "memory": "8Gi"}),  # Kueue and KubeRay call the head so
        ("environment", {"HOME": "/root"}),
        ("ray.groups.gpu.environment", {"HOME": "/root"}),
        ("ray.faultTolerance.redisAddress", "redis://redis.example.org"),
        ("image.digest", "sha256:abc"),
        ("networkPolicy.storage", {"ports": [443]}),  # it follows the address
    ],
)
def test_a_wrong_value_is_refused(path, value):
    with pytest.raises(helm_python.HelmError):
        render(change_values("values-gpu.yaml", {path: value}))


@pytest.mark.parametrize(
    ("name", "patch", "words"),
    [
        ("values-gpu.yaml", {"mlflow.enabled": False, "postgres.enabled": False}, "no MLflow"),
        ("values-gpu.yaml", {"tracking.uri": "https://mlflow.example.org"}, "two MLflow servers"),
        ("values-gpu.yaml", {"postgres.enabled": False}, "MLflow has no database"),
        ("values-gpu.yaml", {"mlflow.database.host": "db"}, "two databases"),
        ("values-gpu.yaml", {"storage.existingSecret": "keys"}, "two object stores"),
        ("values-fleet.yaml", {"tracking.existingSecret": ""}, "jobs cannot log in"),
        ("values-fleet.yaml", {"mlflow.ingress.host": ""}, "needs mlflow.ingress.host"),
        ("values-fleet.yaml", {"kueue.jobs": "", "kueue.cluster": ""}, "kueue.elastic=true without a queue"),
        ("values-second-cluster.yaml", {"postgres.enabled": True}, "serves MLflow alone"),
        ("", {}, "MLflow has no database"),
        ("values-gpu.yaml", {"fullnameOverride": "face.scale"}, 'would be called "face.scale"'),
        ("values-gpu.yaml", {"fullnameOverride": "2nd"}, 'would be called "2nd"'),
        ("values-gpu.yaml", {"ray.version": "2.49.2"}, "ray.version 2.49.2 has no token authentication"),
        ("values-gpu.yaml", {"ray.head.sharedMemory": "12Gi"}, "ray.head: sharedMemory 12Gi is not below memory 12Gi"),
        ("values-gpu.yaml", {"ray.groups.gpu.sharedMemory": "60G"}, "ray.groups.gpu: sharedMemory 60G is not below"),
    ],
)
def test_values_that_do_not_go_together_are_refused_in_words(name, patch, words):
    values = change_values(name, patch)
    with pytest.raises(helm_python.HelmError, match=words):
        render(values)


def mappings(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping of the schema that describes a value, with its path."""
    if isinstance(node, dict):
        if node.get("type") in ("object", ["object", "null"]):
            yield path, node
        for key, part in node.items():
            yield from mappings(part, f"{path}/{key}")
    elif isinstance(node, list):
        for number, part in enumerate(node):
            yield from mappings(part, f"{path}/{number}")


def test_the_schema_is_closed_everywhere():
    nodes = list(mappings(SCHEMA))
    assert len(nodes) > 40
    still_open = [
        path for path, node in nodes if "additionalProperties" not in node and path.split("/")[-1] not in OPEN
    ]
    assert still_open == []
    assert not any(node.get("additionalProperties") is True for _, node in nodes)


def test_every_key_has_a_meaning():
    silent = [
        f"{path}/{key}"
        for path, node in mappings(SCHEMA)
        for key, part in {**node.get("properties", {}), **node.get("patternProperties", {})}.items()
        if len(part.get("description", "")) < 8
    ]
    assert silent == []


def test_values_and_schema_have_the_same_keys():
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(node: dict[str, Any], value: dict[str, Any], path: str) -> None:
        keys = set(node["properties"]) - {"global"}
        assert keys == set(value), path
        for key in keys:
            part = node["properties"][key]
            if "properties" in part and "$ref" not in part:
                compare(part, value[key], f"{path}.{key}")

    compare(SCHEMA, values, "")


def test_a_group_of_the_defaults_can_be_taken_away():
    values = change_values("values-gpu.yaml", {"ray.groups.cpu": None})
    cluster = next(doc for doc in render_objects(values) if doc["kind"] == "RayCluster")
    assert [group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]] == ["gpu"]
