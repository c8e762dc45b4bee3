"""A Kubernetes namespace: API server, KubeRay, our chart, our permissions, and whether a job would be admitted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from facscale.cluster.kubernetes.api import RAYJOBS
from facscale.cluster.kubernetes.errors import ApiRequest
from facscale.cluster.kubernetes.manifest import SubmitOptions, plan_pods
from facscale.cluster.kubernetes.submission import check_shared_storage, compute_request, resolve_spec
from facscale.cluster.kubernetes.template import load_template
from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, from_error, ok, problem, warning
from facscale.doctor.runner import register_check
from facscale.errors import UserError
from facscale.spec import Job, Pipeline, parse

KUBERAY_RESOURCES = ("rayjobs", "rayclusters")
SUBMITTER_VERBS = {  # the chart's role for researchers: what submit, status, logs, cancel and list need
    "ray.io/rayjobs": "create get list watch delete",
    "/configmaps": "get list create",
    "/pods": "get list watch",
    "/pods/log": "get list watch",
    "/events": "get list watch",
}
KUEUE_VERBS = {"kueue.x-k8s.io/workloads": "get list watch"}
ROLE_FIX = "ask the cluster's administrator to add you to the chart's value `researchers` (role RELEASE-submitter)"


@register_check("API server", rank=10, kind="kube", timeout_s=60)
def check_server(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl version`."""
    api = context.api
    version = api.get_version()
    context.results["groups"] = api.get_groups()
    yield ok(f"{api.server} answers and knows us: Kubernetes {version}")
    if api.has_namespace() is False:
        fix = f"create it, or name another in your clusters file: {api.target.name}: {{context: ..., namespace: ...}}"
        yield problem(f"there is no namespace {api.namespace}", fix)


@register_check("KubeRay", rank=20, kind="kube", timeout_s=60)
def check_kuberay(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl api-resources --api-group ray.io`."""
    install_fix = "install the KubeRay operator with its CRDs (helm/facscale/README.md)"
    version = context.require("groups").get("ray.io")
    if version is None:
        yield problem("the cluster knows no ray.io: KubeRay's CRDs are missing", install_fix)
        return
    request = ApiRequest("get", "the resources of ray.io")
    resources = context.api.request_json("GET", f"/apis/ray.io/{version}", request=request)["resources"]
    names = {resource["name"] for resource in resources}
    missing = [name for name in KUBERAY_RESOURCES if name not in names]
    if version != "v1":
        yield problem(f"KubeRay serves ray.io/{version}, the chart asks for v1", "upgrade the operator and its CRDs")
    elif missing:
        yield problem(f"KubeRay is there without {' and '.join(missing)}", install_fix)
    else:
        context.results["kuberay"] = version
        yield ok("KubeRay's CRDs are there: ray.io/v1 with RayJob and RayCluster")


@register_check("chart", rank=30, kind="kube", timeout_s=60)
def check_chart(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `helm list` and `kubectl get configmaps -l facscale.dev/template=rayjob`."""
    context.require("groups")
    template = load_template(context.api)
    context.results["template"] = template
    groups = ", ".join(
        f"{group.name} ({group.gpus} GPUs a pod)" if group.gpus else group.name for group in template.worker_groups
    )
    yield ok(f"the chart is installed: {template.source}, worker groups {groups or 'none'}")
    for name in ("FACSCALE_DATA", "FACSCALE_RUNS", "MLFLOW_TRACKING_URI"):
        if name not in template.environment:
            yield warning(f"its pods have no {name}", "set it in the chart's values, or write its value in each spec")


@register_check("rights", rank=40, kind="kube", timeout_s=120)
def check_permissions(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl auth can-i --list`."""
    groups = context.require("groups")
    verbs_by_resource = SUBMITTER_VERBS | (KUEUE_VERBS if "kueue.x-k8s.io" in groups else {})
    missing = [
        f"{verb} {resource.lstrip('/')}"
        for resource, verbs in verbs_by_resource.items()
        for verb in verbs.split()
        if not is_allowed(context.api, resource, verb)
    ]
    if missing:
        yield problem(f"we may not {', '.join(missing)} in {context.api.namespace}", ROLE_FIX)
    else:
        yield ok(f"we may do in {context.api.namespace} all that submit, status, logs, cancel and list do")


def is_allowed(api: Any, resource: str, verb: str) -> bool:
    """Ask the server whether we may use a verb on GROUP/RESOURCE or GROUP/RESOURCE/SUBRESOURCE."""
    group, _, rest = resource.partition("/")
    name, _, subresource = rest.partition("/")
    attributes = {
        "namespace": api.namespace,
        "verb": verb,
        "group": group,
        "resource": name,
        "subresource": subresource,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = api.request_json("POST", path, request=ApiRequest("create", "selfsubjectaccessreviews"), body=body)
    return bool(review["status"]["allowed"])


@register_check("RayJob", rank=45, kind="kube", timeout_s=60)
def check_dry_run(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl create --dry-run=server`: schemas, quotas and policies answer before anything is created."""
    context.require("kuberay")
    body = copy.deepcopy(context.require("template").manifest)
    body["metadata"] = {**body.get("metadata", {}), "name": "facscale-doctor"}
    context.api.create(RAYJOBS, body, dry_run=True)
    yield ok("the server would take the chart's RayJob, every field of it (by a dry run)")


@register_check("job", rank=50, kind="kube", timeout_s=60)
def check_job(context: DiagnosticContext) -> Iterator[Finding]:
    """Compare the spec with the chart's worker groups."""
    if context.spec is None:
        return
    template = context.require("template")
    try:
        source = f"the environment of {template.source}"
        document = resolve_spec(context.spec, context.overrides, template.environment, source=source)
        parsed = parse(document, Pipeline) if "source" in document.data else parse(document, Job)
        check_shared_storage(document, template.environment)
        plan = plan_pods(template, compute_request(parsed), SubmitOptions())
    except UserError as error:
        yield from_error(error, fix="change the spec, or the chart's values")
        return
    pods = f"{plan.min_pods}" if plan.min_pods == plan.max_pods else f"{plan.min_pods} to {plan.max_pods}"
    yield ok(f"{context.spec} takes {pods} pods of the group {plan.group.name}; its storage is shared by all of them")
