"""Upgrades: Helm looks at what runs, and keeps what others have set since the last one."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import helm_python
import pytest
import yaml
from helm.chart import CHART, NAMESPACE, RELEASE, load_values

from manifests import change_values, find_object

RESOURCES = {
    "/api/v1": [("secrets", "Secret")],
    "/apis/ray.io/v1": [("rayclusters", "RayCluster")],
}


class Handler(BaseHTTPRequestHandler):
    """The part of an API server that Helm's `lookup` uses: discovery, and single objects."""

    objects: dict

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/api":
            answer = {"kind": "APIVersions", "versions": ["v1"]}
        elif path == "/apis":
            version = {"groupVersion": "ray.io/v1", "version": "v1"}
            group = {"name": "ray.io", "versions": [version], "preferredVersion": version}
            answer = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
        elif path in RESOURCES:
            resources = [
                {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
                for plural, kind in RESOURCES[path]
            ]
            version = path.removeprefix("/apis/").removeprefix("/api/")
            answer = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
        else:
            answer = self.objects.get(path)
        body = answer or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        text = json.dumps(body).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def render_live(tmp_path):
    """A function: the chart's objects as an upgrade renders them, on a cluster with these objects by path."""
    handler = type("LiveHandler", (Handler,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "live",
        "clusters": [{"name": "live", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "users": [{"name": "live", "user": {"token": "t"}}],
        "contexts": [{"name": "live", "context": {"cluster": "live", "user": "live", "namespace": NAMESPACE}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig))

    def render(values, objects):
        handler.objects = objects
        with helm_python.Config(kubeconfig_path=str(path), namespace=NAMESPACE) as config:
            chart = helm_python.Chart.load(str(CHART))
            texts = config.render(chart, values, name=RELEASE, namespace=NAMESPACE, is_upgrade=True)
        manifests = [text for name, text in texts.items() if not name.endswith("NOTES.txt")]
        return [doc for text in manifests for doc in yaml.load_all(text, Loader=yaml.CSafeLoader) if doc]

    yield render
    server.shutdown()
    server.server_close()


def live_cluster(**replicas):
    groups = [{"groupName": name, "replicas": count} for name, count in replicas.items()]
    path = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters/{RELEASE}"
    return {path: {"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": {"workerGroupSpecs": groups}}}


def count_replicas(docs):
    groups = find_object(docs, f"RayCluster/{RELEASE}")["spec"]["workerGroupSpecs"]
    return {group["groupName"]: group["replicas"] for group in groups}


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({}, {"cpu": 1, "gpu": 0}),
        ({"cpu": 2, "gpu": 1}, {"cpu": 2, "gpu": 1}),
        ({"cpu": 0, "gpu": 0}, {"cpu": 0, "gpu": 0}),  # scaled down below what the values begin with
        ({"cpu": 9, "gone": 3}, {"cpu": 2, "gpu": 0}),  # within the new bounds; a group that was removed
    ],
)
def test_an_upgrade_keeps_what_the_autoscaler_has_set(render_live, live, expected):
    values = change_values("values-gpu.yaml", {"ray.groups.cpu.replicas": 1, "image.tag": "new"})
    objects = live_cluster(**live) if live else {}
    assert count_replicas(render_live(values, objects)) == expected


def test_without_an_autoscaler_the_values_rule(render_live):
    values = change_values("values-gpu.yaml", {"kueue.cluster": "standing", "ray.groups.cpu.replicas": 2})
    assert count_replicas(render_live(values, live_cluster(cpu=1, gpu=1))) == {"cpu": 2, "gpu": 0}


def test_a_new_image_reaches_the_head(render_live):
    docs = render_live(load_values("values-gpu.yaml"), live_cluster(cpu=2))
    assert find_object(docs, f"RayCluster/{RELEASE}")["spec"]["upgradeStrategy"] == {"type": "Recreate"}


def test_mlflow_is_restarted_when_a_secret_that_it_reads_has_changed(render_live):
    def digest(password):
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/facscale-postgres"
        secret = {"apiVersion": "v1", "kind": "Secret", "data": {"username": "bQ==", "password": password}}
        docs = render_live(load_values("values-fleet.yaml"), {path: secret})
        template = find_object(docs, f"Deployment/{RELEASE}-mlflow")["spec"]["template"]
        return template["metadata"]["annotations"]["facscale.dev/secrets"]

    assert digest("b25l") == digest("b25l") != digest("dHdv")
