"""A namespace with our chart's template, and a kubeconfig that leads there."""

from __future__ import annotations

import copy

import pytest
import yaml

from facscale.cluster.kubernetes import follow, kuberay_client
from kubeapi import FakeApiServer


def pod(container, **limits):
    containers = [{"name": container, "image": "faces:1", "resources": {"limits": limits}}]
    return {"spec": {"containers": containers, "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}}


def group(name, *, most=4, **limits):
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": pod("ray-worker", **limits),
    }


HEAD = pod("ray-head", cpu="2")
HEAD["spec"]["containers"][0]["envFrom"] = [
    {"configMapRef": {"name": "facscale-environment"}},
    {"secretRef": {"name": "facscale-storage"}},
]
TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "facscale-job", "labels": {"app.kubernetes.io/part-of": "facscale"}},
    "spec": {
        "entrypoint": "facscale run /etc/facscale/job/job.yaml",
        "backoffLimit": 3,
        "shutdownAfterJobFinishes": True,
        "rayClusterSpec": {
            "enableInTreeAutoscaling": True,
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": HEAD},
            "workerGroupSpecs": [
                group("cpu", cpu="8"),
                group("gpu", cpu="16", **{"nvidia.com/gpu": "4"}),
                group("gpu-spot", most=16, cpu="16", **{"nvidia.com/gpu": "4"}),
            ],
        },
        "submitterPodTemplate": {"spec": {"containers": [{"name": "ray-job-submitter", "image": "faces:1"}]}},
    },
}
ENVIRONMENT = {
    "FACSCALE_DATA": "s3://faces/data",
    "FACSCALE_RUNS": "s3://faces/runs",
    "FACSCALE_CLUSTER": "munich",
}


@pytest.fixture
def template():
    return copy.deepcopy(TEMPLATE)


@pytest.fixture
def kube_api(tmp_path, monkeypatch):
    """An API server with the chart in the namespace `faces`, for the context gke-munich, "munich" in the clusters file."""
    with FakeApiServer() as api:
        label = {"facscale.dev/template": "rayjob"}
        text = yaml.safe_dump(TEMPLATE)
        api.add("configmaps", {"metadata": {"name": "facscale-rayjob", "labels": label}, "data": {"rayjob.yaml": text}})
        api.add("configmaps", {"metadata": {"name": "facscale-environment"}, "data": ENVIRONMENT})
        (tmp_path / "kubeconfig").write_text(api.kubeconfig())
        (tmp_path / "clusters.yaml").write_text("clusters:\n  munich: {context: gke-munich, namespace: faces}\n")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("FACSCALE_CLUSTERS", str(tmp_path / "clusters.yaml"))
        monkeypatch.setattr(follow, "PAUSE_S", 0.01)
        monkeypatch.setattr(kuberay_client, "PAUSE_S", 0.01)
        yield api


@pytest.fixture
def spec(tmp_path):
    """A function: a job file with these lines."""

    def write(text="", name="clp.yaml"):
        path = tmp_path / name
        path.write_text(
            "method: {name: clp, depth: 18, width: 4, length: 3, queue_size: 32}\n"
            'data: {unlabelled: "${FACSCALE_DATA}/vox", labelled: ["${FACSCALE_DATA}/bp4d"], image_size: 32}\n' + text
        )
        return path

    return write
