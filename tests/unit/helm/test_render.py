"""Each value file makes manifests that Kubernetes and KubeRay take."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import helm_python
import pytest
import ray
import yaml
from helm.chart import CHART, NAMESPACE, RELEASE, VALUE_FILES, load_values, render, render_objects

import facscale
import kuberay
from conftest import ROOT
from manifests import NEWEST, OLDEST, change_values, labels, load_objects, validate
from pods import load_rayjob

needs_crds = pytest.mark.skipif(kuberay.find_crds() is None, reason=kuberay.MISSING)


@pytest.mark.parametrize("name", VALUE_FILES)
def test_lint_finds_nothing(name):
    report = helm_python.lint(str(CHART), load_values(name), strict=True, kube_version=f"v{NEWEST}.0")
    assert report["errors"] == []
    assert [line for line in report["messages"] if line["error"] != "icon is recommended"] == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", VALUE_FILES)
def test_core_objects_are_valid(name, version):
    for doc in load_objects(name):
        validate(doc, version)


@pytest.mark.parametrize("name", VALUE_FILES)
def test_submitter_pod_of_a_job_is_valid(name):
    template = load_rayjob(load_objects(name))["spec"]["submitterPodTemplate"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "submitter", **template["metadata"]},
        "spec": template["spec"],
    }
    validate(pod)


@needs_crds
@pytest.mark.parametrize("name", VALUE_FILES)
def test_ray_objects_keep_to_kuberays_schema_and_rules(name):
    docs = load_objects(name)
    for doc in [load_rayjob(docs), *(doc for doc in docs if doc["kind"] == "RayCluster")]:
        assert kuberay.list_schema_errors(doc) == []
        assert kuberay.list_operator_errors(doc) == []
        assert kuberay.list_kueue_errors(doc) == []


@needs_crds
def test_the_schema_finds_a_wrong_key_deep_inside():
    job = load_rayjob(load_objects("values-gpu.yaml"))
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    del group["maxReplicas"]  # has a default, so it may be missing
    group["replica"] = 1
    errors = kuberay.list_schema_errors(job)
    assert len(errors) == 2
    assert any("'imagePolicy' was unexpected" in error for error in errors)
    assert any("'replica' was unexpected" in error for error in errors)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("metadata.name", "a" * 48, "at most 47"),
        ("metadata.name", "1-clp", "DNS-1035"),
        ("spec.submissionMode", "Nope", "unknown submissionMode"),
        ("spec.shutdownAfterJobFinishes", False, "need shutdownAfterJobFinishes"),
        ("spec.rayClusterSpec.rayVersion", "2.51.1", "needs 2.52.0"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "Always", "restartPolicy Never"),
        ("spec.rayClusterSpec.authOptions.enableK8sTokenAuth", True, "not for RayJobs"),
    ],
)
def test_operator_rules_refuse(path, value, words):
    job = load_rayjob(load_objects("values-gpu.yaml"))
    node = job
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    assert [error for error in kuberay.list_operator_errors(job) if words in error]


def test_min_above_max_is_refused():
    values = change_values("values-gpu.yaml", {"ray.groups.gpu.minReplicas": 5})
    with pytest.raises(helm_python.HelmError, match="ray.groups.gpu: minReplicas 5 is above maxReplicas 1"):
        render(values)


@pytest.mark.parametrize("release", ["r" * 53, "facscale", "a"])
def test_names_stay_within_limits(release):
    for doc in render_objects(load_values("values-fleet.yaml"), name=release, namespace="n" * 63):
        assert len(doc["metadata"]["name"]) <= 63
        if doc["kind"] == "RayCluster":
            assert kuberay.list_operator_errors(doc) == []


def test_versions_agree():
    chart = (CHART / "Chart.yaml").read_text()
    assert re.search(r"^appVersion: (\S+)", chart, re.MULTILINE)[1] == facscale.__version__
    assert load_values("values.yaml")["ray"]["version"] == ray.__version__


@pytest.mark.parametrize("name", VALUE_FILES)
def test_notes_say_what_to_type(name):
    values = load_values(name)
    notes = next(text for path, text in render(values).items() if path.endswith("NOTES.txt"))
    has_gpus = any((group or {}).get("gpus") for group in values["ray"]["groups"].values())
    assert "facscale submit jobs/demo.yaml --kube" in notes
    assert ("facscale submit jobs/clp.yaml --kube" in notes) == has_gpus
    assert "facscale submit pipelines/synthetic.yaml --kube" in notes
    for file in re.findall(r"(?:jobs|pipelines)/\w+\.yaml", notes):
        assert (ROOT / file).exists(), file
    assert "helm test facscale --namespace research" in notes
    typed = {word.rstrip(":") for word in re.findall(r"(?:secret|service/|ConfigMap )\s?(facscale[\w-]*)", notes)}
    names = {doc["metadata"]["name"] for doc in render_objects(values)} | set(_names(values)) | {"facscale-head-svc"}
    assert typed
    assert typed <= names


def test_notes_give_the_address_as_it_is_served():
    for secret, scheme in (("certificate", "https"), ("", "http")):
        ingress = {"enabled": True, "host": "mlflow.example.org", "tlsSecret": secret}
        values = change_values("values-gpu.yaml", {"mlflow.ingress": ingress})
        notes = next(text for path, text in render(values).items() if path.endswith("NOTES.txt"))
        assert f" {scheme}://mlflow.example.org" in notes


def _names(value) -> list[str]:
    """All words of the values: names of secrets that exist stand there."""
    if isinstance(value, dict):
        return [word for part in value.values() for word in _names(part)]
    return [value] if isinstance(value, str) else []


def test_probes_are_programs():
    for path in sorted((CHART / "probes").glob("*.py")):
        compile(path.read_text(), str(path), "exec")
        rendered = [
            pod for pod in load_objects("values-fleet.yaml") if pod["metadata"]["name"].endswith(f"test-{path.stem}")
        ]
        assert rendered[0]["spec"]["containers"][0]["args"][0].strip() == path.read_text().strip()


def test_value_files_are_all_told_in_the_readme():
    text = (CHART / "README.md").read_text()
    assert [name for name in VALUE_FILES if f"`{name}`" not in text] == []


def test_schema_is_json_that_people_wrote_once():
    def unique(pairs):
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), names
        return dict(pairs)

    json.loads(Path(CHART / "values.schema.json").read_text(), object_pairs_hook=unique)


@pytest.mark.parametrize("name", VALUE_FILES)
def test_an_installation_is_planned_as_it_is_rendered(name):
    config = helm_python.Config(namespace=NAMESPACE, storage_driver="memory")
    plan = config.install(helm_python.Chart.load(str(CHART)), RELEASE, load_values(name), dry_run="client")
    planned = {f"{doc['kind']}/{doc['metadata']['name']}" for doc in yaml.safe_load_all(plan["manifest"]) if doc}
    hooks = {label for label, doc in zip(labels(load_objects(name)), load_objects(name), strict=True) if is_hook(doc)}
    assert planned == set(labels(load_objects(name))) - hooks
    assert "facscale submit" in plan["notes"]


def is_hook(doc):
    return "helm.sh/hook" in doc["metadata"].get("annotations", {})


def test_the_package_holds_what_the_templates_read(tmp_path):
    helm_python.package(str(CHART), destination=str(tmp_path))
    with tarfile.open(next(tmp_path.glob("facscale-*.tgz"))) as package:
        names = set(package.getnames())
    wanted = {
        "values.schema.json",
        "dashboards/ray.yaml",
        "dashboards/training.yaml",
        "probes/ray.py",
        "values-gpu.yaml",
    }
    assert {f"facscale/{name}" for name in wanted} <= names
