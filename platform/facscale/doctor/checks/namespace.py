"""What pods need in a namespace: a queue, GPU nodes, images, secrets. Some of it only administrators may read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facscale.cluster.kubernetes.api import PODS
from facscale.cluster.kubernetes.job_state import IMAGE_REASONS
from facscale.cluster.kubernetes.kuberay_client import PART_OF_SELECTOR
from facscale.cluster.kubernetes.manifest import QUEUE_LABEL
from facscale.cluster.kubernetes.template import GPU
from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.runner import register_check

ADMINISTRATOR_FIX = "let an administrator run facscale doctor --kube here; researchers need not see it"


@register_check("queue", rank=60, kind="kube", timeout_s=60)
def check_queue(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl get localqueues`."""
    api, template = context.api, context.require("template")
    name = api.target.queue or (template.manifest["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    version = context.require("groups").get("kueue.x-k8s.io")
    if not name:
        yield ok("jobs go to no queue" + ("; Kueue is there, and --queue names one" if version else ""))
        return
    if version is None:
        message = f"jobs go to the queue {name}, and Kueue is not installed"
        yield problem(message, "install Kueue, or empty the chart's queue")
        return
    response = api.send("GET", f"/apis/kueue.x-k8s.io/{version}/namespaces/{api.namespace}/localqueues/{name}")
    if response.status == 404:
        message = f"there is no queue {name} in {api.namespace}: jobs would wait for ever"
        yield problem(message, "create that LocalQueue, or name another")
    elif response.status == 403:
        yield warning(f"we may not see whether there is a queue {name}", ADMINISTRATOR_FIX)
    else:
        yield check_queue_status(name, json.loads(response.text))


def check_queue_status(name: str, queue: Mapping[str, Any]) -> Finding:
    """Check whether a LocalQueue admits jobs."""
    status = queue.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "Active" and condition["status"] != "True":
            fix = "look at its ClusterQueue: kubectl describe clusterqueues"
            return problem(f"the queue {name} admits no jobs: {condition.get('message', '')}", fix)
    return ok(f"the queue {name} is there, {status.get('pendingWorkloads', 0)} jobs wait in it")


@register_check("GPU nodes", rank=70, kind="kube", timeout_s=60)
def check_gpu_nodes(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl get nodes`: allocatable nvidia.com/gpu."""
    template = context.require("template")
    groups = [group for group in template.worker_groups if group.gpus]
    response = context.api.send("GET", "/api/v1/nodes")
    if not groups:
        return
    if response.status != 200:
        yield warning("we may not see the cluster's nodes, so not its GPUs either", ADMINISTRATOR_FIX)
        return
    nodes = json.loads(response.text)["items"]
    specs = template.manifest["spec"]["rayClusterSpec"].get("workerGroupSpecs") or []
    selectors = {spec["groupName"]: spec["template"]["spec"].get("nodeSelector") or {} for spec in specs}
    for group in groups:
        yield check_group(group.name, gpus=group.gpus, selector=selectors[group.name], nodes=nodes)


def check_group(name: str, *, gpus: int, selector: Mapping[str, str], nodes: Sequence[Mapping[str, Any]]) -> Finding:
    """Check whether a node can hold a pod of a worker group with `gpus` GPUs and this nodeSelector."""
    gpu_counts = [
        int(node["status"]["allocatable"].get(GPU, 0))
        for node in nodes
        if selector.items() <= (node["metadata"].get("labels") or {}).items() and not node["spec"].get("unschedulable")
    ]
    fitting = [count for count in gpu_counts if count >= gpus]
    if fitting:
        return ok(f"{len(fitting)} nodes can hold pods of {name}: {sum(fitting)} GPUs, {gpus} a pod")
    labels = f" and the labels {dict(selector)}" if selector else ""
    return warning(
        f"no node has {gpus} GPUs{labels}, as {name} needs",
        "if the node pool grows on demand, nothing is wrong; else check the NVIDIA device plugin and the chart's "
        "nodeSelector",
    )


@register_check("pods", rank=80, kind="kube", timeout_s=60)
def check_pods(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl get pods`."""
    context.require("groups")
    pods = context.api.list(PODS, labels=PART_OF_SELECTOR)
    findings = [finding for pod in pods for finding in check_pod(pod)]
    yield from findings
    if not findings:
        message = f"{len(pods)} pods of facscale, none waits for an image or a node"
        yield ok(message if pods else "no pod of facscale runs now")


def check_pod(pod: Mapping[str, Any]) -> Iterator[Finding]:
    """Report what keeps a pod from starting."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in IMAGE_REASONS:
            message = f"{name} cannot pull {container['image']}: {waiting.get('message') or waiting['reason']}"
            yield problem(message, "see that the image exists, and that imagePullSecrets may read its registry")
        elif waiting.get("reason") == "CreateContainerConfigError":
            yield problem(f"{name}: {waiting.get('message')}", "create the ConfigMap or Secret that it names")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            fix = "wait for the node pool to grow, or compare requests, tolerations and nodeSelector with the nodes"
            yield warning(f"{name} has no node: {condition.get('message', '')}", fix)


@register_check("secrets", rank=90, kind="kube", timeout_s=60)
def check_secrets(context: DiagnosticContext) -> Iterator[Finding]:
    """Look with `kubectl get secrets`."""
    api, names = context.api, find_secret_names(context.require("template").manifest)
    statuses = {name: api.send("GET", f"/api/v1/namespaces/{api.namespace}/secrets/{name}").status for name in names}
    missing = [name for name, status in statuses.items() if status == 404]
    hidden = [name for name, status in statuses.items() if status == 403]
    if missing:
        fix = f"create them in {api.namespace} with the keys that the chart's README names, or correct existingSecret"
        yield problem(f"pods name secrets that are not there: {', '.join(missing)}", fix)
    if hidden:
        yield warning(f"we may not see whether these secrets exist: {', '.join(hidden)}", ADMINISTRATOR_FIX)
    if names and not missing and not hidden:
        yield ok(f"the secrets that pods name are there: {', '.join(names)}")


def find_secret_names(manifest: Any) -> list[str]:
    """Find the names of all secrets to which a manifest refers and that are not optional."""
    names: list[str] = []
    if isinstance(manifest, Mapping):
        for key, value in manifest.items():
            is_required = isinstance(value, Mapping) and not value.get("optional")
            if key in {"secretRef", "secretKeyRef", "secret"} and is_required:
                names.append(str(value.get("name") or value.get("secretName")))
            elif key == "imagePullSecrets":
                names += [str(secret["name"]) for secret in value or []]
            elif key == "authOptions" and isinstance(value, Mapping) and value.get("secretName"):
                names.append(str(value["secretName"]))
            else:
                names += find_secret_names(value)
    elif isinstance(manifest, list):
        names += [name for item in manifest for name in find_secret_names(item)]
    return sorted(set(names))
