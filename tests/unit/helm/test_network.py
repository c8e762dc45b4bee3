"""Network policies: everything is closed, what is needed is open, and every selector chooses somebody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helm.chart import VALUE_FILES, load_values, render_objects

from manifests import installed
from pods import Pod, pods, selects

OURS = {"podSelector"}  # a peer with this key alone is in our namespace


def policies(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [doc["spec"] for doc in docs if doc["kind"] == "NetworkPolicy"]


def named(docs: list[dict[str, Any]], component: str) -> Pod:
    return next(pod for pod in pods(docs) if pod.labels["app.kubernetes.io/component"] == component)


def allows(docs: list[dict[str, Any]], source: Pod, target: Pod, port: int) -> bool:
    """As the network would decide: both sides have to agree."""

    def agreed(here: Pod, there: Pod, direction: str, key: str) -> bool:
        mine = [
            one
            for one in policies(docs)
            if selects(one["podSelector"], here.labels) and direction in one["policyTypes"]
        ]
        rules = [rule for one in mine for rule in one.get(direction.lower(), [])]
        return not mine or any(
            port in [one["port"] for one in rule.get("ports", [{"port": port}])]
            and any(peer.keys() == OURS and selects(peer["podSelector"], there.labels) for peer in rule.get(key, []))
            for rule in rules
        )

    return agreed(source, target, "Egress", "to") and agreed(target, source, "Ingress", "from")


@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_pod_is_closed_both_ways(name):
    docs = installed(name)
    closed = next(doc["spec"] for doc in docs if doc["metadata"]["name"] == "facscale-closed")
    assert "ingress" not in closed
    assert {one["port"] for rule in closed["egress"] for one in rule["ports"]} == {53}
    for pod in pods(docs):
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
    docs = installed(name)
    labels = [pod.labels for pod in pods(docs)]
    found = list(selectors(docs))
    assert found
    assert [where for where, selector in found if not any(selects(selector, one) for one in labels)] == []


def test_a_service_monitor_finds_the_service():
    docs = installed("values-fleet.yaml")
    monitor = next(doc for doc in docs if doc["kind"] == "ServiceMonitor")
    services = [
        doc
        for doc in docs
        if doc["kind"] == "Service" and selects(monitor["spec"]["selector"], doc["metadata"]["labels"])
    ]
    assert [doc["metadata"]["name"] for doc in services] == ["facscale-mlflow"]
    ports = {one["name"] for one in services[0]["spec"]["ports"]}
    assert {one["port"] for one in monitor["spec"]["endpoints"]} <= ports


def test_ports_of_services_and_monitors_are_ports_of_their_pods():
    docs = installed("values-fleet.yaml") + installed("values-gpu.yaml")
    for doc in docs:
        if doc["kind"] in {"Service", "PodMonitor"}:
            service = doc["kind"] == "Service"
            selector = {"matchLabels": doc["spec"]["selector"]} if service else doc["spec"]["selector"]
            asked = (
                {one["targetPort"] for one in doc["spec"]["ports"]}
                if service
                else {one["port"] for one in doc["spec"]["podMetricsEndpoints"]}
            )
            for pod in pods(docs):
                if selects(selector, pod.labels):
                    assert asked <= {one["name"] for one in pod.spec["containers"][0]["ports"]}


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
    docs = installed("values-gpu.yaml")
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
    docs = installed("values-gpu.yaml")
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
    assert outside(installed(name), component) == ports


def test_without_policies_there_are_none():
    assert policies(render_objects({**load_values("values-gpu.yaml"), "networkPolicy": {"enabled": False}})) == []
