"""What pods need in a namespace: a queue, GPU nodes, images, secrets. Some of it only administrators may see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facscale.cluster.kubernetes.manifest import QUEUE
from facscale.cluster.kubernetes.template import GPU
from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.patient import Patient

BLIND = "let an administrator run facscale doctor --kube here; researchers need not see it"
NO_IMAGE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull")
OURS = "app.kubernetes.io/part-of=facscale"


@check("queue", rank=60, place="kube", limit_s=60)
def queue(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl get localqueues`."""
    api, template = patient.api, patient.known("template")
    name = api.place.queue or (template.manifest["metadata"].get("labels") or {}).get(QUEUE)
    version = patient.known("groups").get("kueue.x-k8s.io")
    if not name:
        yield ok("jobs go to no queue" + ("; Kueue is there, and --queue names one" if version else ""))
        return
    if version is None:
        yield problem(
            f"jobs go to the queue {name}, and Kueue is not installed", "install Kueue, or empty the chart's queue"
        )
        return
    answer = api.send("GET", f"/apis/kueue.x-k8s.io/{version}/namespaces/{api.namespace}/localqueues/{name}")
    if answer.status == 404:
        yield problem(
            f"there is no queue {name} in {api.namespace}: jobs would wait for ever",
            "make that LocalQueue, or name another",
        )
    elif answer.status == 403:
        yield warning(f"we may not see whether there is a queue {name}", BLIND)
    else:
        yield from of_queue(name, json.loads(answer.text))


def of_queue(name: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether it admits jobs."""
    status = found.get("status") or {}
    stopped = [one for one in status.get("conditions") or [] if one["type"] == "Active" and one["status"] != "True"]
    if stopped:
        mend = "see to its ClusterQueue: kubectl describe clusterqueues"
        yield problem(f"the queue {name} admits nobody: {stopped[0].get('message', '')}", mend)
    else:
        yield ok(f"the queue {name} is there, {status.get('pendingWorkloads', 0)} jobs wait in it")


@check("GPU nodes", rank=70, place="kube", limit_s=60)
def gpu_nodes(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl get nodes`: allocatable nvidia.com/gpu."""
    groups = [group for group in patient.known("template").groups if group.gpus]
    answer = patient.api.send("GET", "/api/v1/nodes")
    if not groups:
        return
    if answer.status != 200:
        yield warning("we may not see the cluster's nodes, so not its GPUs either", BLIND)
        return
    nodes = json.loads(answer.text)["items"]
    pods = patient.known("template").manifest["spec"]["rayClusterSpec"].get("workerGroupSpecs") or []
    selectors = {one["groupName"]: one["template"]["spec"].get("nodeSelector") or {} for one in pods}
    for group in groups:
        yield from of_group(group.name, gpus=group.gpus, selector=selectors[group.name], nodes=nodes)


def of_group(
    name: str, *, gpus: int, selector: Mapping[str, str], nodes: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """Which nodes could hold a pod of a worker group."""
    fitting = [
        int(node["status"]["allocatable"].get(GPU, 0))
        for node in nodes
        if selector.items() <= (node["metadata"].get("labels") or {}).items() and not node["spec"].get("unschedulable")
    ]
    fitting = [there for there in fitting if there >= gpus]
    if fitting:
        yield ok(f"{len(fitting)} nodes can hold pods of {name}: {sum(fitting)} GPUs, {gpus} a pod")
        return
    said = f"no node has {gpus} GPUs" + (f" and the labels {dict(selector)}" if selector else "") + f", as {name} wants"
    mend = "if the node pool grows on demand this is well; else see to the NVIDIA device plugin, and to the chart's nodeSelector"
    yield warning(said, mend)


@check("pods", rank=80, place="kube", limit_s=60)
def pods(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl get pods`."""
    from facscale.cluster.kubernetes.api import PODS

    patient.known("groups")
    found = patient.api.list(PODS, labels=OURS)
    ill = [finding for pod in found for finding in of_pod(pod)]
    yield from ill
    if not ill:
        yield ok(
            f"{len(found)} pods of facscale, none waits for an image or a node"
            if found
            else "no pod of facscale runs now"
        )


def of_pod(pod: Mapping[str, Any]) -> Iterator[Finding]:
    """What keeps one from starting."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in NO_IMAGE:
            mend = "see that the image exists, and that imagePullSecrets may read its registry"
            yield problem(
                f"{name} cannot pull {container['image']}: {waiting.get('message') or waiting['reason']}", mend
            )
        elif waiting.get("reason") == "CreateContainerConfigError":
            yield problem(f"{name}: {waiting.get('message')}", "make the ConfigMap or Secret that it names")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            mend = "wait for the node pool to grow, or compare requests, tolerations and nodeSelector with the nodes"
            yield warning(f"{name} has no node: {condition.get('message', '')}", mend)


@check("secrets", rank=90, place="kube", limit_s=60)
def secrets(patient: Patient) -> Iterator[Finding]:
    """Look with `kubectl get secrets`."""
    api, wanted = patient.api, named_secrets(patient.known("template").manifest)
    status = {name: api.send("GET", f"/api/v1/namespaces/{api.namespace}/secrets/{name}").status for name in wanted}
    missing = [name for name, answer in status.items() if answer == 404]
    hidden = [name for name, answer in status.items() if answer == 403]
    if missing:
        mend = f"make them in {api.namespace} with the keys that the chart's README names, or correct existingSecret"
        yield problem(f"pods name secrets that are not there: {', '.join(missing)}", mend)
    if hidden:
        yield warning(f"we may not see whether these secrets exist: {', '.join(hidden)}", BLIND)
    if wanted and not missing and not hidden:
        yield ok(f"the secrets that pods name are there: {', '.join(wanted)}")


def named_secrets(manifest: Any) -> list[str]:
    """Names of all secrets that a manifest refers to and cannot do without."""
    found: list[str] = []
    if isinstance(manifest, Mapping):
        for key, value in manifest.items():
            if (
                key in {"secretRef", "secretKeyRef", "secret"}
                and isinstance(value, Mapping)
                and not value.get("optional")
            ):
                found += [str(value.get("name") or value.get("secretName"))]
            elif key == "imagePullSecrets":
                found += [str(one["name"]) for one in value or []]
            elif key == "authOptions" and isinstance(value, Mapping) and value.get("secretName"):
                found += [str(value["secretName"])]
            else:
                found += named_secrets(value)
    elif isinstance(manifest, list):
        found += [name for one in manifest for name in named_secrets(one)]
    return sorted(set(found))
