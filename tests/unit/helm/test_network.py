"""Network policies: everything is closed, what is needed is open, and every selector chooses somebody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helm.chart import VALUE_FILES, load_values, render_objects

from manifests import change_values, load_objects
from pods import Pod, list_pods, selects

OURS = {"podSelector"}  # a peer with this key alone is in our namespace


def policies(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [doc["spec"] for doc in docs if doc["kind"] == "NetworkPolicy"]


def named(docs: list[dict[str, Any]], component: str) -> Pod:
    return next(pod for pod in list_pods(docs) if pod.labels["app.kubernetes.io/component"] == component)


def allows(docs: list[dict[str, Any]], source: Pod, target: Pod, port: int) -> bool:
    """As the network would decide: both sides have to agree."""

    def is_allowed(here: Pod, there: Pod, direction: str, key: str) -> bool:
        own = [
            policy
            for policy in policies(docs)
            if selects(policy["podSelector"], here.labels) and direction in policy["policyTypes"]
        ]
        rules = [rule for policy in own for rule in policy.get(direction.lower(), [])]
        return not own or any(
            port in [entry["port"] for entry in rule.get("ports", [{"port": port}])]
            and any(peer.keys() == OURS and selects(peer["podSelector"], there.labels) for peer in rule.get(key, []))
            for rule in rules
        )

    return is_allowed(source, target, "Egress", "to") and is_allowed(target, source, "Ingress", "from")


@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_pod_is_closed_both_ways(name):
    docs = load_objects(name)
    closed = next(doc["spec"] for doc in docs if doc["metadata"]["name"] == "facscale-closed")
    assert "ingress" not in closed
    assert {entry["port"] for rule in closed["egress"] for entry in rule["ports"]} == {53}
    for pod in list_pods(docs):
        assert selects(closed["podSelector"], pod.labels), pod.where


def selectors(docs: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that choose pods of ours."""
    for doc in docs:
        where, spec = f"{doc['kind']}/{doc['metadata']['name']}", doc.get("spec", {})
        if doc["kind"] == "Service":
            yield where, {"matchLabels": spec["selector"]}
        elif doc["kind"] in {"PodDisruptionBudget", "PodMonitor", "Deployment", "StatefulSet"}:
            yield where, spec["selector"]
        elif doc["kind"] == "NetworkPolicy":
            yield where, spec["podSelector"]
            rules = [*spec.get("ingress", []), *spec.get("egress", [])]
            peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
            yield from ((where, peer["podSelector"]) for peer in peers if peer.keys() == OURS)


@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_selector_chooses_somebody(name):
    docs = load_objects(name)
    labels = [pod.labels for pod in list_pods(docs)]
    matches = list(selectors(docs))
    assert matches
    assert [
        where for where, selector in matches if not any(selects(selector, pod_labels) for pod_labels in labels)
    ] == []


def test_a_service_monitor_finds_the_service():
    docs = load_objects("values-fleet.yaml")
    monitor = next(doc for doc in docs if doc["kind"] == "ServiceMonitor")
    services = [
        doc
        for doc in docs
        if doc["kind"] == "Service" and selects(monitor["spec"]["selector"], doc["metadata"]["labels"])
    ]
    assert [doc["metadata"]["name"] for doc in services] == ["facscale-mlflow"]
    ports = {port["name"] for port in services[0]["spec"]["ports"]}
    assert {entry["port"] for entry in monitor["spec"]["endpoints"]} <= ports


def test_ports_of_services_and_monitors_are_ports_of_their_pods():
    docs = load_objects("values-fleet.yaml") + load_objects("values-gpu.yaml")
    for doc in docs:
        if doc["kind"] in {"Service", "PodMonitor"}:
            service = doc["kind"] == "Service"
            selector = {"matchLabels": doc["spec"]["selector"]} if service else doc["spec"]["selector"]
            ports = (
                {port["targetPort"] for port in doc["spec"]["ports"]}
                if service
                else {entry["port"] for entry in doc["spec"]["podMetricsEndpoints"]}
            )
            for pod in list_pods(docs):
                if selects(selector, pod.labels):
                    assert ports <= {port["name"] for port in pod.spec["containers"][0]["ports"]}


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("ray-worker", "ray-head", 6379),
        ("ray-head", "ray-worker", 40000),
        ("ray-worker", "ray-worker", 52365),
        ("ray-submitter", "ray-head", 8265),
        ("ray-head", "mlflow", 5000),
        ("ray-worker", "object-store", 8333),
        ("mlflow", "object-store", 8333),
        ("mlflow", "postgres", 5432),
        ("test", "ray-head", 8265),
        ("test", "mlflow", 5000),
        ("test", "object-store", 8333),
    ],
)
def test_what_is_needed_is_open(source, target, port):
    docs = load_objects("values-gpu.yaml")
    assert allows(docs, named(docs, source), named(docs, target), port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("ray-worker", "postgres", 5432),  # the database is MLflow's alone
        ("ray-head", "postgres", 5432),
        ("test", "postgres", 5432),
        ("ray-submitter", "mlflow", 5000),
        ("ray-submitter", "ray-worker", 8265),
        ("ray-submitter", "ray-head", 6379),
        ("ray-worker", "object-store", 8888),  # the filer asks nobody for a key
        ("mlflow", "object-store", 9333),
        ("object-store", "mlflow", 5000),
        ("postgres", "object-store", 8333),
        ("mlflow", "ray-head", 8265),
        ("test", "ray-head", 10001),
    ],
)
def test_what_is_not_needed_is_closed(source, target, port):
    docs = load_objects("values-gpu.yaml")
    assert not allows(docs, named(docs, source), named(docs, target), port)


def outside(docs: list[dict[str, Any]], component: str) -> set[int]:
    """Ports at which a pod may reach addresses outside the cluster."""
    pod = named(docs, component)
    return {
        port["port"]
        for policy in policies(docs)
        if selects(policy["podSelector"], pod.labels)
        for rule in policy.get("egress", [])
        if any("ipBlock" in peer for peer in rule.get("to", [{"ipBlock": {}}]))
        for port in rule["ports"]
    }


@pytest.mark.parametrize(
    ("name", "component", "ports"),
    [
        ("values-gpu.yaml", "ray-worker", set()),
        ("values-gpu.yaml", "ray-head", {443, 6443}),  # the Kubernetes API, for the autoscaler
        ("values-gpu.yaml", "mlflow", set()),
        ("values-gpu.yaml", "object-store", set()),
        ("values-fleet.yaml", "ray-worker", {443, 80, 988}),  # storage, and the cloud's identities
        ("values-fleet.yaml", "ray-head", {443, 80, 988, 6379}),
        ("values-fleet.yaml", "mlflow", {443, 80, 988, 5432}),
        ("values-fleet.yaml", "mlflow-migration", {5432}),
        ("values-fleet.yaml", "ray-submitter", set()),
        ("values-second-cluster.yaml", "ray-worker", {443}),
    ],
)
def test_who_may_leave_the_cluster_and_where(name, component, ports):
    assert outside(load_objects(name), component) == ports


@pytest.mark.parametrize(
    ("path", "address", "component", "port"),
    [
        ("storage.endpoint", "https://minio.example.org:9000", "ray-worker", 9000),
        ("storage.endpoint", "http://minio.example.org/", "ray-worker", 80),
        ("storage.endpoint", "http://[fd00::1]:9000", "mlflow", 9000),
        ("mlflow.database.port", 6432, "mlflow", 6432),
        ("mlflow.database.port", 6432, "mlflow-migration", 6432),
        ("ray.faultTolerance.redisAddress", "redis.example.org:6380", "ray-head", 6380),
    ],
)
def test_policies_follow_the_addresses(path, address, component, port):
    docs = render_objects(change_values("values-fleet.yaml", {path: address}))
    assert port in outside(docs, component)


def test_the_tracker_of_another_cluster_is_reached_at_its_port():
    docs = render_objects(
        change_values("values-second-cluster.yaml", {"tracking.uri": "https://mlflow.example.org:8443"})
    )
    assert {443, 8443} == outside(docs, "ray-worker")  # the store's, and the tracker's


def test_without_policies_there_are_none():
    assert policies(render_objects({**load_values("values-gpu.yaml"), "networkPolicy": {"enabled": False}})) == []
