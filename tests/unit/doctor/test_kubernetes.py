"""A namespace, examined through an API server: what is right, and each thing that can be wrong with it."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from facscale.cluster.kubernetes import KubeApi, resolve_kube_target
from facscale.doctor import DiagnosticContext, run_checks
from facscale.doctor.checks.namespace import find_secret_names
from kubeapi import FakeApiServer, Refusal

SSAR = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
ENVIRONMENT = {
    "FACSCALE_DATA": "s3://f/data",
    "FACSCALE_RUNS": "s3://f/runs",
    "MLFLOW_TRACKING_URI": "http://mlflow:5000",
}
NODE = {
    "metadata": {"name": "n1", "labels": {"pool": "gpu"}},
    "spec": {},
    "status": {"allocatable": {"nvidia.com/gpu": "8"}},
}


def pod_of(name, **limits):
    container = {"name": name, "image": "faces:1", "resources": {"limits": limits}}
    return {"spec": {"containers": [container], "nodeSelector": {"pool": "gpu"} if "nvidia.com/gpu" in limits else {}}}


def template():
    head = pod_of("ray-head", cpu="2")
    head["spec"]["containers"][0]["envFrom"] = [
        {"configMapRef": {"name": "facscale-environment"}},
        {"secretRef": {"name": "facscale-storage"}},
        {"secretRef": {"name": "facscale-extra", "optional": True}},
    ]
    head["spec"]["imagePullSecrets"] = [{"name": "registry"}]
    groups = [
        {"groupName": "cpu", "maxReplicas": 4, "template": pod_of("ray-worker", cpu="8")},
        {"groupName": "gpu", "maxReplicas": 4, "template": pod_of("ray-worker", cpu="16", **{"nvidia.com/gpu": "4"})},
    ]
    cluster = {"headGroupSpec": {"rayStartParams": {}, "template": head}, "workerGroupSpecs": groups}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "facscale-job", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
        "spec": {
            "entrypoint": "facscale run",
            "rayClusterSpec": {**cluster, "authOptions": {"mode": "token", "secretName": "ray-token"}},
        },
    }


class Cluster(FakeApiServer):
    """The API server of the tests of submit, and what only the doctor asks; a test changes it as it likes."""

    def __init__(self):
        super().__init__()
        self.groups["kueue.x-k8s.io"] = "v1beta1"
        self.resources = ["rayjobs", "rayjobs/status", "rayclusters"]
        self.denied = set()  # (verb, resource)
        self.hidden = set()  # what we may not look at: nodes, secrets, localqueues
        self.nodes = [NODE]
        self.there = {"secrets": {"facscale-storage", "registry", "ray-token"}, "localqueues": {"gpus"}}
        self.queue = {"status": {"pendingWorkloads": 3, "conditions": [{"type": "Active", "status": "True"}]}}
        self.alive = True
        label = {"facscale.dev/template": "rayjob"}
        data = {"rayjob.yaml": yaml.safe_dump(template())}
        self.add("configmaps", {"metadata": {"name": "facscale-rayjob", "labels": label}, "data": data})
        self.add("configmaps", {"metadata": {"name": "facscale-environment"}, "data": dict(ENVIRONMENT)})

    def answer(self, method, url, headers, body):
        path = url.partition("?")[0]
        if path == "/version":
            return json.dumps({"gitVersion": "v1.33.2"})
        if path.startswith("/apis/ray.io/") and path.count("/") == 3:
            return json.dumps({"resources": [{"name": name} for name in self.resources]})
        if path == SSAR:
            asked = body["spec"]["resourceAttributes"]
            return json.dumps({"status": {"allowed": (asked["verb"], asked["resource"]) not in self.denied}})
        if path == "/api/v1/nodes" and "nodes" not in self.hidden:
            return json.dumps({"items": self.nodes})
        if (found := re.search(r"/(secrets|localqueues)/([\w-]+)$", path)) and found[1] not in self.hidden:
            if found[2] not in self.there[found[1]]:
                raise Refusal(404, f"{found[0]} not found", "NotFound")
            return json.dumps(self.queue)
        return super().answer(method, url, headers, body)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with Cluster() as api:
        (tmp_path / "kubeconfig").write_text(api.kubeconfig())
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("FACSCALE_CLUSTERS", str(tmp_path / "clusters.yaml"))
        (tmp_path / "clusters.yaml").write_text("clusters:\n  munich: {context: gke-munich, namespace: faces}\n")
        yield api


def examined(**given):
    """Findings by the check that told them."""
    by_check = {}
    for one in run_checks(DiagnosticContext(api=KubeApi(resolve_kube_target("munich")), **given)):
        by_check.setdefault(one.check, []).append(one)
    return by_check


def bad(by_check):
    return {name: one for name, several in by_check.items() for one in several if one.severity != "ok"}


def test_a_namespace_that_is_as_it_should_be(cluster):
    told = examined()
    assert bad(told) == {}
    said = {name: one[-1].message for name, one in told.items()}
    assert "Kubernetes v1.33.2" in said["API server"]
    assert said["chart"] == "the chart is installed: facscale-rayjob, worker groups cpu, gpu (4 GPUs a pod)"
    assert said["queue"] == "the queue gpus is there, 3 jobs wait in it"
    assert said["GPU nodes"] == "1 nodes can hold pods of gpu: 8 GPUs, 4 a pod"
    assert said["secrets"] == "the secrets that pods name are there: facscale-storage, ray-token, registry"
    assert cluster.list_changes() == []


def no_kuberay(cluster):
    del cluster.groups["ray.io"]


def old_kuberay(cluster):
    cluster.groups["ray.io"] = "v1alpha1"


def no_rayjobs(cluster):
    cluster.resources.remove("rayjobs")


def no_chart(cluster):
    del cluster.objects["configmaps", "facscale-rayjob"]


def no_place_for_runs(cluster):
    del cluster.objects["configmaps", "facscale-environment"]["data"]["FACSCALE_RUNS"]


def no_right(cluster):
    cluster.denied.add(("create", "rayjobs"))


def strict_schema(cluster):
    def check(plural, body):
        raise Refusal(400, 'strict decoding error: unknown field "spec.rayClusterSpec.authOptions"', "BadRequest")

    cluster.admission.append(check)


def no_kueue(cluster):
    del cluster.groups["kueue.x-k8s.io"]


def no_queue(cluster):
    cluster.there["localqueues"].clear()


def stopped_queue(cluster):
    cluster.queue["status"]["conditions"][0] |= {"status": "False", "message": "ClusterQueue is inactive"}


def small_nodes(cluster):
    cluster.nodes = [NODE | {"status": {"allocatable": {"nvidia.com/gpu": "1"}}}]


def other_nodes(cluster):
    cluster.nodes = [NODE | {"metadata": {"name": "n1", "labels": {"pool": "web"}}}]


def hidden_nodes(cluster):
    cluster.hidden.add("nodes")


def no_secret(cluster):
    cluster.there["secrets"].remove("facscale-storage")


def hidden_secrets(cluster):
    cluster.hidden.add("secrets")


def ours(cluster, status):
    labels = {"app.kubernetes.io/part-of": "facscale"}
    cluster.add("pods", {"metadata": {"name": "p", "labels": labels}, "status": status})


def no_image(cluster):
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    ours(cluster, {"containerStatuses": [{"image": "faces:9", "state": {"waiting": waiting}}]})


def no_node(cluster):
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    ours(cluster, {"conditions": [condition]})


@pytest.mark.parametrize(
    ("wrong", "check", "state", "said"),
    [
        (no_kuberay, "KubeRay", "problem", "KubeRay's CRDs are missing"),
        (old_kuberay, "KubeRay", "problem", "ray.io/v1alpha1"),
        (no_rayjobs, "KubeRay", "problem", "KubeRay is there without rayjobs"),
        (no_chart, "chart", "problem", "facscale.dev/template=rayjob"),
        (no_place_for_runs, "chart", "warning", "its pods have no FACSCALE_RUNS"),
        (no_right, "rights", "problem", "we may not create ray.io/rayjobs in faces"),
        (strict_schema, "RayJob", "problem", "authOptions"),
        (no_kueue, "queue", "problem", "Kueue is not installed"),
        (no_queue, "queue", "problem", "there is no queue gpus in faces"),
        (stopped_queue, "queue", "problem", "the queue gpus admits no jobs: ClusterQueue is inactive"),
        (small_nodes, "GPU nodes", "warning", "no node has 4 GPUs"),
        (other_nodes, "GPU nodes", "warning", "the labels {'pool': 'gpu'}"),
        (hidden_nodes, "GPU nodes", "warning", "we may not see the cluster's nodes"),
        (no_secret, "secrets", "problem", "facscale-storage"),
        (hidden_secrets, "secrets", "warning", "registry"),
        (no_image, "pods", "problem", "p cannot pull faces:9: not found"),
        (no_node, "pods", "warning", "p has no node: 0/3 nodes are available"),
    ],
)
def test_what_is_wrong_is_told_with_its_mend(cluster, wrong, check, state, said):
    wrong(cluster)
    found = bad(examined())
    assert list(found) == [check]
    assert found[check].severity == state
    assert said in found[check].message
    assert found[check].fix


def test_a_server_that_does_not_know_us_is_one_finding(cluster, tmp_path):
    (tmp_path / "kubeconfig").write_text(cluster.kubeconfig(token="old"))
    cluster.answer = lambda *_: (_ for _ in ()).throw(Refusal(401, "Unauthorized", "Unauthorized"))
    found = examined()
    assert list(found) == ["API server"]
    assert "does not know you (401)" in found["API server"][0].message


def test_a_spec_is_compared_with_the_chart(cluster, tmp_path):
    spec = tmp_path / "job.yaml"
    spec.write_text('method: {name: clp}\ndata: {unlabelled: "${FACSCALE_DATA}/vox"}\ncluster: {workers: 8}\n')
    assert "takes 2 pods of the group gpu" in examined(spec=spec)["job"][0].message
    (many,) = examined(spec=spec, overrides=("cluster.workers=64",))["job"]
    assert many.severity == "problem"
    (own,) = examined(spec=spec, overrides=("cluster.storage=/tmp/runs",))["job"]
    assert "a folder that each pod would have for itself" in own.message
    spec.write_text('method: {name: clp}\ndata: {unlabelled: "${ELSEWHERE}/vox"}\n')
    (unset,) = examined(spec=spec)["job"]
    assert "${ELSEWHERE} is not set there" in unset.message


def test_code_that_goes_along_is_weighed(cluster, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "method.py").write_text("x = 1\n")
    (light,) = examined(code_folder=tmp_path / "code")["working-dir"]
    assert light.severity == "ok"
    (tmp_path / "code" / "weights.bin").write_bytes(bytes(60_000_000))
    (heavy,) = examined(code_folder=tmp_path / "code")["working-dir"]
    assert heavy.severity == "problem"
    assert "weights.bin" in heavy.message + heavy.fix


def test_secrets_are_found_wherever_a_manifest_names_them():
    volume = {
        "volumes": [{"secret": {"secretName": "files"}}],
        "env": [{"valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}],
    }
    assert find_secret_names({"spec": [volume, {"secretRef": {"name": "maybe", "optional": True}}]}) == ["files", "one"]
