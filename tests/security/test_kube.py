"""Another namespace's service account: the chart's roles give it nothing, and the API's 403 is one clear line."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
import yaml

from conftest import ROOT
from rbac import Rbac, Subject, account

CHART = ROOT / "helm" / "facscale"
ANNA, STRANGER = account("anna", "people"), account("anna", "elsewhere")
RAY = "ray.io"
SUBMITTERS = [
    *((verb, "rayjobs", RAY) for verb in ("create", "get", "list", "watch", "delete")),
    *((verb, "configmaps", "") for verb in ("get", "list", "create")),
    *((verb, resource, "") for verb in ("get", "list", "watch") for resource in ("pods", "pods/log", "events")),
    *((verb, "workloads", "kueue.x-k8s.io") for verb in ("get", "list", "watch")),
]
NOBODYS = [
    ("get", "secrets", ""),
    ("list", "secrets", ""),
    ("create", "pods", ""),
    ("create", "pods/exec", ""),
    ("create", "pods/attach", ""),
    ("create", "pods/portforward", ""),
    ("create", "serviceaccounts/token", ""),
    ("impersonate", "users", ""),
    ("create", "rolebindings", "rbac.authorization.k8s.io"),
    ("escalate", "roles", "rbac.authorization.k8s.io"),
    ("create", "jobs", "batch"),
    ("get", "nodes", ""),
]


def test_the_evaluator_knows_places_groups_names_and_stars():
    role = {
        "kind": "Role",
        "metadata": {"name": "r"},
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["one"]},
        ],
    }
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": "b"},
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "a"}, {"kind": "User", "name": "bob"}],
    }
    rbac = Rbac([role, binding], namespace="here")
    assert rbac.may(account("a", "here"), "delete", "pods", namespace="here")
    assert rbac.may(Subject("User", "bob"), "delete", "pods", namespace="here")
    assert rbac.may(account("a", "here"), "get", "secrets", namespace="here", name="one")
    assert not rbac.may(account("a", "here"), "get", "secrets", namespace="here", name="two")
    assert not rbac.may(account("a", "here"), "get", "secrets", namespace="here")
    assert not rbac.may(account("a", "there"), "delete", "pods", namespace="here")
    assert not rbac.may(account("a", "here"), "delete", "pods", namespace="there")
    assert not rbac.may(account("a", "here"), "delete", "pods", group="metrics.k8s.io", namespace="here")
    assert not rbac.may(account("a", "here"), "delete", "pods/log", namespace="here")


def rendered(**values):
    """All manifests of the chart, in the namespace "faces"."""
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk renders the chart")
    if not CHART.exists():
        pytest.skip("there is no chart in helm/facscale")
    base = yaml.safe_load((CHART / "values-gpu.yaml").read_text())
    files = helm.Chart.load(str(CHART)).render(base | values, name="facscale", namespace="faces")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module")
def manifests():
    people = [
        {"kind": "ServiceAccount", "name": ANNA.name, "namespace": ANNA.namespace},
        {"kind": "User", "name": "bob"},
    ]
    return rendered(researchers=people)


@pytest.fixture(scope="module")
def rbac(manifests):
    return Rbac(manifests, namespace="faces")


def accounts(manifests):
    return [account(one["metadata"]["name"], "faces") for one in manifests if one["kind"] == "ServiceAccount"]


def test_a_researcher_may_submit_and_nothing_else(rbac):
    for who in (ANNA, Subject("User", "bob")):
        given = [(verb, resource, group) for one, verb, resource, group in rbac.all() if one == who]
        assert sorted(given) == sorted(SUBMITTERS)


def test_another_namespaces_account_of_the_same_name_may_nothing(rbac):
    for who in (STRANGER, account("default", "faces"), account("default", "people"), Subject("User", "anna")):
        for verb, resource, group in SUBMITTERS + NOBODYS:
            assert not rbac.may(who, verb, resource, group=group, namespace="faces"), (who, verb, resource)


def test_nobody_may_anything_in_another_namespace(rbac, manifests):
    for who in (ANNA, *accounts(manifests)):
        for verb, resource, group in SUBMITTERS + NOBODYS:
            assert not rbac.may(who, verb, resource, group=group, namespace="people"), (who, verb, resource)


def test_nobody_reads_secrets_runs_other_pods_or_makes_roles(rbac, manifests):
    for who in (ANNA, *accounts(manifests)):
        for verb, resource, group in NOBODYS:
            assert not rbac.may(who, verb, resource, group=group, namespace="faces"), (who, verb, resource)


def test_there_are_no_stars_and_no_roles_of_the_whole_cluster(rbac, manifests):
    assert not [one for one in manifests if one["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    assert not [given for given in rbac.all() if "*" in given]


def test_pods_hold_no_token_that_they_do_not_need(manifests):
    """Each service account mounts none by itself; only the head's autoscaler has rules, so only the head may."""
    given = {who.name for who, *_ in Rbac(manifests, namespace="faces").all()}
    for one in manifests:
        if one["kind"] == "ServiceAccount" and one["metadata"]["name"] not in given:
            assert one["automountServiceAccountToken"] is False


@pytest.fixture
def forbidding(tmp_path, monkeypatch):
    """An API server that refuses everything in the way Kubernetes does, and a kubeconfig for it."""
    said = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "Forbidden",
        "code": 403,
        "message": 'rayjobs.ray.io is forbidden: User "system:serviceaccount:elsewhere:anna" cannot list resource '
        '"rayjobs" in API group "ray.io" in the namespace "faces"',
    }

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(said).encode()
            self.send_response(403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_PATCH = do_GET  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "gke",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "users": [{"name": "u", "user": {"token": "top-secret-token"}}],
            "contexts": [{"name": "gke", "context": {"cluster": "c", "user": "u", "namespace": "faces"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(place))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("FACSCALE_CLUSTERS", str(tmp_path / "none.yaml"))
        yield "gke"
        server.shutdown()


def test_a_403_is_one_clear_line_without_the_token(forbidding):
    api = pytest.importorskip("facscale.cluster.kubernetes.api", reason="there is no room facscale.cluster.kubernetes")
    from facscale.cluster.kubernetes.clusters import KubeTarget

    with pytest.raises(api.KubeError) as error:
        api.KubeApi(KubeTarget(name="munich", context=forbidding)).list(api.RAYJOBS)
    told = str(error.value)
    assert "\n" not in told
    assert "system:serviceaccount:elsewhere:anna" in told
    assert "list" in told
    assert "rayjobs" in told
    assert "top-secret-token" not in told
