"""Clusters by name, and what each refusal of an API server is told as."""

from __future__ import annotations

import pytest

from facscale.cluster.kubernetes import (
    KubeApi,
    KubeError,
    KubeTarget,
    RayTarget,
    load_targets,
    resolve_kube_target,
    resolve_ray_target,
)
from facscale.cluster.kubernetes.api import CONFIGMAPS, PODS, RAYJOBS
from facscale.cluster.kubernetes.errors import UnreachableError
from facscale.cluster.kubernetes.template import load_template
from facscale.errors import UserError
from facscale.spec import SpecError
from kubeapi import Refusal


@pytest.fixture
def clusters(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "clusters.yaml").write_text(text)
        monkeypatch.setenv("FACSCALE_CLUSTERS", str(tmp_path / "clusters.yaml"))

    return write


def test_the_clusters_file_names_both_kinds(clusters):
    clusters(
        "clusters:\n  munich: {context: gke-munich, namespace: faces, queue: gpu}\n"
        "  lab: {address: http://10.1.2.3:8265/, token_file: ~/.ray/auth_token}\n"
    )
    munich, lab = load_targets().values()
    assert munich == KubeTarget("munich", "gke-munich", namespace="faces", queue="gpu") == resolve_kube_target("munich")
    assert lab == RayTarget("lab", "http://10.1.2.3:8265", token_file="~/.ray/auth_token") == resolve_ray_target("lab")
    assert resolve_kube_target("gke-other") == KubeTarget("gke-other", "gke-other")
    assert resolve_kube_target("munich", namespace="mine") == KubeTarget(
        "munich", "gke-munich", namespace="mine", queue="gpu"
    )
    assert resolve_ray_target("http://h:8265") == RayTarget("http://h:8265", "http://h:8265")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clusters:\n  a: {contxt: x}\n", 'clusters.yaml:2: unknown key "clusters.a.contxt" (did you mean "context"?)'),
        ("clusters:\n  a: {namespace: x}\n", "either a context (Kubernetes) or an address (Ray)"),
        ("clusters:\n  a: {context: x, address: http://h}\n", "either a context (Kubernetes) or an address (Ray)"),
        ("clusters:\n  a: {address: http://h, queue: q}\n", "address takes token_file"),
        ("clusters:\n  a: {address: 'h:8265'}\n", "as in http://10.1.2.3:8265"),
    ],
)
def test_a_wrong_clusters_file(clusters, text, message):
    clusters(text)
    with pytest.raises(SpecError) as error:
        load_targets()
    assert message in str(error.value)


def test_a_cluster_of_the_other_kind_is_told_so(clusters):
    clusters("clusters:\n  munich: {context: gke}\n  lab: {address: 'http://h:8265'}\n")
    with pytest.raises(SpecError, match="lab is a Ray cluster.*--ray lab"):
        resolve_kube_target("lab")
    with pytest.raises(SpecError, match="munich is a Kubernetes cluster: --kube munich"):
        resolve_ray_target("munich")
    with pytest.raises(SpecError, match='no Ray cluster "lap".*did you mean "lab"'):
        resolve_ray_target("lap")


def test_without_a_file_there_are_no_clusters(monkeypatch, tmp_path):
    monkeypatch.delenv("FACSCALE_CLUSTERS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_targets() == {}


def test_no_kubeconfig(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(KubeError, match="none: no usable kubeconfig.*set KUBECONFIG"):
        KubeApi(resolve_kube_target("munich"))


def test_an_unknown_context_names_the_nearest(kube_api):
    with pytest.raises(KubeError, match='there is no context "munic".*did you mean "munich"'):
        KubeApi(resolve_kube_target("munic"))
    with pytest.raises(KubeError, match='"gke-old" .the context of home in your clusters file.'):
        KubeApi(KubeTarget("home", "gke-old"))


def test_the_namespace_is_the_places_or_the_contexts(kube_api):
    assert KubeApi(KubeTarget("gke-munich", "gke-munich")).namespace == "faces"
    assert KubeApi(KubeTarget("gke-munich", "gke-munich", namespace="other")).namespace == "other"


def test_nobody_answers(kube_api):
    api = KubeApi(resolve_kube_target("munich"))
    kube_api.__exit__()
    with pytest.raises(UnreachableError, match=r"munich: the API server http://127.0.0.1:\d+ cannot be reached.*VPN"):
        api.list(PODS)


def test_who_is_not_logged_in(kube_api, tmp_path):
    (tmp_path / "kubeconfig").write_text(kube_api.kubeconfig(token="old"))
    with pytest.raises(KubeError, match=r"does not know you \(401\).*kubectl --context gke-munich auth whoami"):
        KubeApi(resolve_kube_target("munich")).list(PODS)


def test_who_may_not(kube_api):
    kube_api.forbidden.add(("list", "rayjobs"))
    with pytest.raises(KubeError, match=r"ann may not list rayjobs.ray.io in the namespace faces \(403\).*-submitter"):
        KubeApi(resolve_kube_target("munich")).list(RAYJOBS)


def test_no_kuberay(kube_api):
    kube_api.groups.clear()
    with pytest.raises(KubeError, match="knows no RayJobs.*operator and its CRDs"):
        KubeApi(resolve_kube_target("munich")).list(RAYJOBS)


def test_no_namespace(kube_api):
    api = KubeApi(KubeTarget("munich", "gke-munich", namespace="facez"))
    with pytest.raises(KubeError, match='there is no namespace "facez".*clusters file'):
        api.create(CONFIGMAPS, {"metadata": {"name": "x"}}, dry_run=True)


def test_no_template(kube_api):
    del kube_api.objects["configmaps", "facscale-rayjob"]
    with pytest.raises(KubeError, match="namespace faces has no ConfigMap with the label.*helm install"):
        load_template(KubeApi(resolve_kube_target("munich")))


def test_two_templates_are_told_apart_by_the_clusters_file(kube_api, template):
    metadata = {"name": "b", "labels": {"facscale.dev/template": "rayjob"}}
    second = kube_api.objects["configmaps", "facscale-rayjob"] | {"metadata": metadata}
    kube_api.add("configmaps", second)
    with pytest.raises(KubeError, match="several charts left a template in faces: b, facscale-rayjob"):
        load_template(KubeApi(resolve_kube_target("munich")))
    assert load_template(KubeApi(KubeTarget("munich", "gke-munich", template="b"))).source == "b"


def test_a_template_that_is_none(kube_api):
    kube_api.objects["configmaps", "facscale-rayjob"]["data"] = {"rayjob.yaml": "spec: {}"}
    with pytest.raises(KubeError, match="is no RayJob of our chart"):
        load_template(KubeApi(resolve_kube_target("munich")))


def test_the_template_knows_groups_and_environment(kube_api):
    found = load_template(KubeApi(resolve_kube_target("munich")))
    assert [(one.name, one.gpus, one.cpus, one.max_pods) for one in found.worker_groups] == [
        ("cpu", 0, 8, 4),
        ("gpu", 4, 16, 4),
        ("gpu-spot", 4, 16, 16),
    ]
    assert found.environment["FACSCALE_RUNS"] == "s3://faces/runs"
    assert found.cluster_name == "munich"


def test_admission_is_told_in_its_own_words_with_a_hint(kube_api):
    def refuse(plural, body):
        raise Refusal(
            403, 'pods "x" is forbidden: exceeded quota: team, requested: pods=9, limited: pods=4', "Forbidden"
        )

    kube_api.admission.append(refuse)
    with pytest.raises(KubeError) as error:
        KubeApi(resolve_kube_target("munich")).create(RAYJOBS, {"metadata": {"name": "x"}}, dry_run=True)
    assert "requested: pods=9" in str(error.value)
    assert "ResourceQuota is spent" in str(error.value)


def test_an_error_is_for_the_user_alone():
    assert issubclass(KubeError, UserError)
