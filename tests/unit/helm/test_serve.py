"""The chart's RayService: what it serves, who reaches it, and when its pods are ready."""

from __future__ import annotations

import importlib

import pytest
import yaml
from helm.chart import render_objects

from manifests import change_values, find_object
from pods import list_pods

VALUES = {"serve.enabled": True, "serve.model": "models:/faces@best"}


def render(**changes):
    return render_objects(change_values("values-gpu.yaml", VALUES | changes))


def find_containers(docs):
    service = find_object(docs, "RayService/facscale-serve")
    return [pod.containers[0] for pod in list_pods([service])]


def test_its_configuration_is_one_that_our_builder_reads():
    from facscale.inference.serving import Serving

    docs = render(**{"serve.networks": {"min": 1, "max": 2, "cpus": 2, "gpus": 0.5}, "serve.maxMegabytes": 1.5})
    config = yaml.safe_load(find_object(docs, "RayService/facscale-serve")["spec"]["serveConfigV2"])
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(config).applications
    module, name = application.import_path.split(":")
    assert callable(getattr(importlib.import_module(module), name))
    serving = Serving.model_validate(application.args)
    assert (serving.model, serving.max_megabytes) == ("models:/faces@best", 1.5)
    assert (serving.networks, serving.max_networks, serving.network_gpus) == (1, 2, 0.5)


def test_the_token_comes_from_a_secret_and_reaches_only_the_service():
    docs = render()
    for container in find_containers(docs):
        (token,) = [entry for entry in container["env"] if entry["name"] == "FACSCALE_SERVE_TOKEN"]
        assert token["valueFrom"]["secretKeyRef"] == {"name": "facscale-serve", "key": "token"}
    assert len(find_object(docs, "Secret/facscale-serve")["data"]) == 1
    others = [pod for pod in list_pods(docs) if not pod.where.startswith("RayService")]
    assert "FACSCALE_SERVE_TOKEN" not in str(others)
    own = render(**{"serve.existingSecret": "mine"})
    assert "Secret/facscale-serve" not in {f"{doc['kind']}/{doc['metadata']['name']}" for doc in own}
    assert "'name': 'mine', 'key': 'token'" in str(find_containers(own))


def test_a_worker_is_ready_when_it_answers_requests():
    head, *workers = find_containers(render())
    assert head["readinessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    for worker in workers:
        assert worker["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}
        assert worker["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        assert {"name": "serve", "containerPort": 8000} in worker["ports"]


def test_only_those_who_are_named_reach_the_service():
    peers = [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]
    policy = find_object(render(**{"networkPolicy.serveFrom": peers}), "NetworkPolicy/facscale-serve")["spec"]
    assert policy["podSelector"]["matchLabels"]["facscale.dev/lifetime"] == "service"
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": 8000}]
    assert peers[0] in rule["from"]
    (closed,) = find_object(render(), "NetworkPolicy/facscale-serve")["spec"]["ingress"]
    assert [peer for peer in rule["from"] if peer not in closed["from"]] == peers
    assert closed["from"], "an empty list would allow everybody"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serve.model": ""}, "needs serve.model"),
        ({"serve.fronts.min": 9}, "serve.fronts: min 9 is above max 4"),
        (
            {"serve.groups": {"serve": {"cpus": 1, "memory": "2Gi", "sharedMemory": "4Gi", "maxReplicas": 1}}},
            "sharedMemory",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        render(**changes)
