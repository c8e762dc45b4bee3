"""A namespace of a Kubernetes cluster: server, KubeRay, our chart, our rights, and whether a job would be let in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, problem, told, warning
from facscale.doctor.patient import Patient
from facscale.errors import UserError

KUBERAY = ("rayjobs", "rayclusters")
SUBMITTER = {  # the chart's role for researchers: what submit and its companions do
    "ray.io/rayjobs": "create get list watch patch delete",
    "/configmaps": "get list create patch delete",
    "/pods": "get list watch",
    "/pods/log": "get list watch",
    "/events": "get list watch",
}
QUEUED = {"kueue.x-k8s.io/workloads": "get list watch"}
ASK_FOR = "ask who runs the cluster to name you under the chart's value `researchers` (role RELEASE-submitter)"


@check("API server", rank=10, place="kube", limit_s=60)
def server(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl version`."""
    api = patient.api
    version = api.version()
    patient.state["groups"] = api.groups()
    yield ok(f"{api.server} answers and knows us: Kubernetes {version}")
    if api.namespace_exists() is False:
        mend = f"create it, or name another in your clusters file: {api.place.name}: {{context: ..., namespace: ...}}"
        yield problem(f"there is no namespace {api.namespace}", mend)


@check("KubeRay", rank=20, place="kube", limit_s=60)
def kuberay(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl api-resources --api-group ray.io`."""
    install = "install the KubeRay operator with its CRDs (helm/facscale/README.md)"
    version = patient.known("groups").get("ray.io")
    if version is None:
        yield problem("the cluster knows no ray.io: KubeRay's CRDs are missing", install)
        return
    text = patient.api.request("GET", f"/apis/ray.io/{version}", asking=("get", "the resources of ray.io"))
    known = {one["name"] for one in json.loads(text)["resources"]}
    missing = [name for name in KUBERAY if name not in known]
    if version != "v1":
        yield problem(f"KubeRay serves ray.io/{version}, the chart asks for v1", "upgrade the operator and its CRDs")
    elif missing:
        yield problem(f"KubeRay is there without {' and '.join(missing)}", install)
    else:
        patient.state["kuberay"] = version
        yield ok("KubeRay's CRDs are there: ray.io/v1 with RayJob and RayCluster")


@check("chart", rank=30, place="kube", limit_s=60)
def chart(patient: Patient) -> Iterator[Finding]:
    """Look with `helm list` and `kubectl get configmaps -l facscale.dev/template=rayjob`."""
    from facscale.cluster.kubernetes.template import load

    patient.known("groups")
    template = load(patient.api)
    patient.state["template"] = template
    groups = ", ".join(f"{one.name} ({one.gpus} GPUs a pod)" if one.gpus else one.name for one in template.groups)
    yield ok(f"the chart is installed: {template.source}, worker groups {groups or 'none'}")
    for name in ("FACSCALE_DATA", "FACSCALE_RUNS", "MLFLOW_TRACKING_URI"):
        if name not in template.environment:
            yield warning(f"its pods have no {name}", "set it in the chart's values, or write its value in each spec")


@check("rights", rank=40, place="kube", limit_s=120)
def rights(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl auth can-i --list`."""
    groups = patient.known("groups")
    wanted = SUBMITTER | (QUEUED if "kueue.x-k8s.io" in groups else {})
    missing = [
        f"{verb} {kind.lstrip('/')}"
        for kind, verbs in wanted.items()
        for verb in verbs.split()
        if not allowed(patient.api, kind, verb)
    ]
    if missing:
        yield problem(f"we may not {', '.join(missing)} in {patient.api.namespace}", ASK_FOR)
    else:
        yield ok(f"we may do in {patient.api.namespace} all that submit, status, logs, cancel and list do")


def allowed(api: Any, kind: str, verb: str) -> bool:
    """Whether the server would let us, by its own word."""
    group, _, resource = kind.partition("/")
    resource, _, below = resource.partition("/")
    asked = {"namespace": api.namespace, "verb": verb, "group": group, "resource": resource, "subresource": below}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    said = json.loads(api.request("POST", path, asking=("create", "selfsubjectaccessreviews"), body=body))
    return bool(said["status"]["allowed"])


@check("RayJob", rank=45, place="kube", limit_s=60)
def dry_run(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl create --dry-run=server`: schemas, quotas and policies answer before anything is made."""
    from facscale.cluster.kubernetes.api import RAYJOBS

    patient.known("kuberay")
    body = copy.deepcopy(patient.known("template").manifest)
    body["metadata"] = {**body.get("metadata", {}), "name": "facscale-doctor"}
    patient.api.create(RAYJOBS, body, dry_run=True)
    yield ok("the server would take the chart's RayJob, every field of it (tried without making it)")


@check("job", rank=50, place="kube", limit_s=60)
def job(patient: Patient) -> Iterator[Finding]:
    """Compare the spec with the chart's worker groups."""
    from facscale.cluster.kubernetes.manifest import Wish, pods
    from facscale.cluster.kubernetes.order import need, refuse_unshared, resolved
    from facscale.spec import Job, Pipeline, parse

    if patient.spec is None:
        return
    template = patient.known("template")
    try:
        told_by = f"the environment of {template.source}"
        document = resolved(patient.spec, patient.overrides, template.environment, told_by=told_by)
        parsed = parse(document, Pipeline) if "source" in document.data else parse(document, Job)
        refuse_unshared(document, template.environment)
        chosen = pods(template, need(parsed), Wish())
    except UserError as error:
        yield told(error, mend="change the spec, or the chart's values")
        return
    number = f"{chosen.fewest}" if chosen.fewest == chosen.most else f"{chosen.fewest} to {chosen.most}"
    yield ok(
        f"{patient.spec} takes {number} pods of the group {chosen.group.name}; its storage is shared by all of them"
    )
