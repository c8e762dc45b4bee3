"""Each switch, both ways: what it makes is there or not, and everything stays valid."""

from __future__ import annotations

import pytest
from helm.chart import render_objects

import kuberay
from manifests import change_values, find_object, labels, load_objects, validate
from pods import list_breaches, list_pods, load_rayjob

SWITCHES = [  # value file, switches, kind and name of what they make (or, with "-", take away)
    ("values-gpu.yaml", {"ray.cluster.enabled": False}, "-RayCluster/facscale"),
    ("values-kind.yaml", {"ray.cluster.enabled": True}, "RayCluster/facscale"),
    ("values-gpu.yaml", {"networkPolicy.enabled": False}, "-NetworkPolicy/facscale-closed"),
    ("values-gpu.yaml", {"monitoring.enabled": True}, "PodMonitor/facscale-ray-head"),
    ("values-fleet.yaml", {"monitoring.enabled": False}, "-ServiceMonitor/facscale-mlflow"),
    ("values-gpu.yaml", {"dashboards.enabled": True}, "ConfigMap/facscale-dashboard-training"),
    ("values-fleet.yaml", {"dashboards.enabled": False}, "-ConfigMap/facscale-dashboard-ray"),
    ("values-gpu.yaml", {"priorityClasses.create": True}, "PriorityClass/facscale-head"),
    ("values-fleet.yaml", {"priorityClasses.create": False}, "-PriorityClass/facscale-head"),
    ("values-fleet.yaml", {"mlflow.ingress.enabled": False}, "-Ingress/facscale-mlflow"),
    ("values-gpu.yaml", {"mlflow.ingress": {"enabled": True, "host": "mlflow.example.org"}}, "Ingress/facscale-mlflow"),
    ("values-fleet.yaml", {"mlflow.replicas": 1}, "-PodDisruptionBudget/facscale-mlflow"),
    (
        "values-gpu.yaml",
        {"objectStore.enabled": False, "storage.existingSecret": "keys"},
        "-StatefulSet/facscale-object-store",
    ),
    (
        "values-gpu.yaml",
        {"postgres.enabled": False, "mlflow.database": {"host": "db", "existingSecret": "db"}},
        "Job/facscale-mlflow-migration",
    ),
    (
        "values-gpu.yaml",
        {"mlflow.enabled": False, "postgres.enabled": False, "tracking.uri": "https://mlflow.example.org"},
        "-Deployment/facscale-mlflow",
    ),
    ("values-gpu.yaml", {"serve.enabled": True, "serve.model": "models:/faces@best"}, "RayService/facscale-serve"),
    ("values-gpu.yaml", {"serve.enabled": True, "serve.model": "models:/faces@best"}, "Secret/facscale-serve"),
    ("values-gpu.yaml", {"serve.enabled": True, "serve.model": "models:/faces@best"}, "NetworkPolicy/facscale-serve"),
    ("values-gpu.yaml", {"ray.auth.existingSecret": "token"}, "-Secret/facscale-ray-token"),
    ("values-gpu.yaml", {"researchers": [{"kind": "ServiceAccount", "name": "ci"}]}, "RoleBinding/facscale-submitter"),
]


@pytest.mark.parametrize(("name", "switches", "label"), SWITCHES)
def test_switches(name, switches, label):
    docs = render_objects(change_values(name, switches))
    before, after = labels(load_objects(name)), labels(docs)
    present, absent = (before, after) if label.startswith("-") else (after, before)
    assert label.removeprefix("-") in present
    assert label.removeprefix("-") not in absent
    for doc in docs:
        validate(doc)
    for doc in [load_rayjob(docs), *(doc for doc in docs if doc["kind"] in {"RayCluster", "RayService"})]:
        assert kuberay.list_operator_errors(doc) == []
        assert kuberay.find_crds() is None or kuberay.list_schema_errors(doc) == []
    assert [pod.where for pod in list_pods(docs) if list_breaches(pod)] == []


def test_a_queue_without_elastic_jobs_means_a_fixed_number_of_workers():
    docs = render_objects(change_values("values-gpu.yaml", {"kueue.jobs": "trainings"}))
    job, cluster = load_rayjob(docs), find_object(docs, "RayCluster/facscale")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trainings"
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in job["spec"]["rayClusterSpec"]
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    assert "kueue.x-k8s.io/queue-name" not in cluster["metadata"]["labels"]


def test_elastic_jobs_keep_the_autoscaler_in_a_queue():
    docs = load_objects("values-fleet.yaml")
    job, cluster = load_rayjob(docs), find_object(docs, "RayCluster/facscale")
    for doc, spec in [(cluster, cluster["spec"]), (job, job["spec"]["rayClusterSpec"])]:
        assert doc["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
        assert spec["enableInTreeAutoscaling"] is True


def test_fault_tolerance_is_the_standing_clusters_with_the_password_by_name():
    docs = load_objects("values-fleet.yaml")
    options = find_object(docs, "RayCluster/facscale")["spec"]["gcsFaultToleranceOptions"]
    password = {"valueFrom": {"secretKeyRef": {"name": "facscale-redis", "key": "redis-password"}}}
    assert options["redisPassword"] == password
    assert "gcsFaultToleranceOptions" not in load_rayjob(docs)["spec"]["rayClusterSpec"]


def test_migration_runs_before_the_server_or_in_a_trial_within_its_pod():
    outside, trial = load_objects("values-fleet.yaml"), load_objects("values-gpu.yaml")
    job = find_object(outside, "Job/facscale-mlflow-migration")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    servers = [find_object(docs, "Deployment/facscale-mlflow")["spec"] for docs in (outside, trial)]
    assert "initContainers" not in servers[0]["template"]["spec"]
    assert servers[1]["template"]["spec"]["initContainers"][0]["name"] == "migrate"
    assert servers[1]["strategy"] == {"type": "Recreate"}


def test_the_second_cluster_tells_the_first_ones_server():
    first, second = (load_objects(f"values-{which}-cluster.yaml") for which in ("first", "second"))
    settings = [find_object(docs, "ConfigMap/facscale-environment")["data"] for docs in (first, second)]
    host = find_object(first, "Ingress/facscale-mlflow")["spec"]["rules"][0]["host"]
    assert settings[1]["MLFLOW_TRACKING_URI"] == f"https://{host}"
    assert [names["FACSCALE_CLUSTER"] for names in settings] == ["munich", "shanghai"]
