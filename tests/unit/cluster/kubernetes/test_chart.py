"""Submitting with the chart's own template, environment and role makes what KubeRay accepts."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner
from helm.chart import VALUE_FILES

import kubeapi
import kuberay
from facscale.cli import main
from kubeapi import FakeApiServer
from manifests import find_object, load_objects, validate

CPUS = "{workers: 2, gpus_per_worker: 0, cpus_per_worker: 1}"
GPUS = "{workers: [1, 2], gpus_per_worker: 0.5}"


def rules(docs):
    """The role of researchers, by resource, as the API server of the tests has it."""
    found = find_object(docs, "Role/facscale-submitter")["rules"]
    return {kind.removeprefix("pods/"): " ".join(rule["verbs"]) for rule in found for kind in rule["resources"]}


@pytest.fixture
def cluster(request, tmp_path, monkeypatch):
    """A namespace in which the chart is installed with a value file, and no more allowed than its role allows."""
    docs = load_objects(request.param)
    with FakeApiServer("research") as api:
        for doc in docs:
            if doc["kind"] == "ConfigMap":
                api.add("configmaps", yaml.safe_load(yaml.safe_dump(doc)))
        (tmp_path / "kubeconfig").write_text(api.kubeconfig(context="there"))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr(kubeapi, "ROLE", rules(docs))
        yield api


@pytest.fixture
def submit(spec):
    """A function: a job with these workers is submitted."""

    def made(workers):
        return CliRunner().invoke(main, ["submit", str(spec(f"cluster: {workers}\n")), "--kube", "there", "--detach"])

    return made


FITS = [(name, CPUS) for name in VALUE_FILES] + [(name, GPUS) for name in VALUE_FILES if name != "values-kind.yaml"]


@pytest.mark.parametrize(("cluster", "workers"), FITS, indirect=["cluster"])
def test_each_value_file_takes_a_job(cluster, submit, workers):
    done = submit(workers)
    assert done.exit_code == 0, done.output
    job = cluster.get_only("rayjobs")
    validate(cluster.objects["configmaps", f"{job['metadata']['name']}-spec"])
    made = job["spec"]["rayClusterSpec"]
    for group in [made["headGroupSpec"], *made["workerGroupSpecs"]]:
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": group["template"]["spec"]})


@pytest.mark.skipif(kuberay.find_crds() is None, reason=kuberay.MISSING)
@pytest.mark.parametrize(("cluster", "workers"), FITS, indirect=["cluster"])
def test_kuberay_takes_it_too(cluster, submit, workers):
    submit(workers)
    assert kuberay.list_schema_errors(cluster.get_only("rayjobs")) == []
    assert kuberay.list_operator_errors(cluster.get_only("rayjobs")) == []


@pytest.mark.parametrize("cluster", ["values-kind.yaml"], indirect=True)
def test_a_laptop_has_no_gpus(cluster, submit):
    assert "has no GPU worker group" in submit(GPUS).output


@pytest.mark.parametrize("cluster", ["values-fleet.yaml"], indirect=True)
def test_the_commands_need_no_more_than_the_role(cluster, spec):
    def facscale(*words):
        return CliRunner().invoke(main, [*map(str, words), "--kube", "there"])

    assert facscale("submit", spec(f"cluster: {GPUS}\n"), "--detach").exit_code == 0
    job = cluster.get_only("rayjobs")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trainings"
    cluster.groups["kueue.x-k8s.io"] = "v1beta2"
    for suspended in (True, False):
        job["spec"]["suspend"] = suspended
        assert facscale("status", "clp").exit_code == 0
    assert facscale("logs", "clp").exit_code == 0
    assert facscale("list").exit_code == 0
    assert facscale("cancel", "clp").exit_code == 0
