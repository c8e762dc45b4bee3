"""Template and order to what is sent: a RayJob, and the ConfigMap with the spec. Nothing here talks to a cluster."""

from __future__ import annotations

import base64
import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from facscale.cluster.kubernetes.order import Need, Order, who
from facscale.cluster.kubernetes.template import GPU, HEAD, WORKER, Group, Template
from facscale.spec import SpecError, nearest

FOLDER = "/etc/facscale/job"  # where head and workers find the spec
SPEC, ZIP = "job.yaml", "code.zip"
VOLUME = "facscale-job"
PART = {"app.kubernetes.io/part-of": "facscale"}
JOB, DIGEST, TRAINS = "facscale.dev/job", "facscale.dev/spec", "facscale.dev/trains"  # labels
NAME, WHO, WORDS, WORKERS = (  # annotations
    "facscale.dev/job-name",
    "facscale.dev/submitted-by",
    "facscale.dev/command",
    "facscale.dev/workers",
)
QUEUE = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True)
class Wish:
    """What the command line says beside the spec; "" where it says nothing."""

    image: str = ""
    queue: str = ""
    group: str = ""


class Pods(NamedTuple):
    """Worker pods of the chosen group."""

    group: Group
    fewest: int
    most: int


def pods(template: Template, need: Need, wish: Wish) -> Pods:
    """Which group trains, and with how many pods: the first that holds them all. Raises SpecError where none does."""
    fitting = [group for group in template.groups if bool(group.gpus) == bool(need.gpus)]
    names = [group.name for group in fitting]
    kind = "GPU" if need.gpus else "CPU"
    if wish.group and wish.group not in names:
        raise SpecError(f"--group {wish.group}: {template.source} has no such {kind} group{nearest(wish.group, names)}")
    if not fitting:
        mend = "cluster.gpus_per_worker=0 trains on CPUs" if need.gpus else "the chart's values can have one"
        raise SpecError(f"{template.source} has no {kind} worker group (a GPU group has a limit {GPU}): {mend}")
    chosen = [group for group in fitting if wish.group in {"", group.name}]
    for group in chosen:
        each = in_a_pod(group, need)
        found = Pods(group, math.ceil(need.fewest / each), math.ceil(need.most / each))
        if found.most <= group.most:
            return found
    limits = ", ".join(f"{group.name} {group.most} pods of {in_a_pod(group, need)} workers" for group in chosen)
    raise SpecError(f"cluster.workers is {need.most}, the cluster's bounds (maxReplicas) are {limits}: ask for fewer")


def in_a_pod(group: Group, need: Need) -> int:
    """How many workers a pod of the group holds. Raises SpecError for none."""
    holds = [need.most]
    for name, there, each in (("gpus", group.gpus, need.gpus), ("cpus", group.cpus, need.cpus)):
        if not there or not each:
            continue  # no GPU is asked for, or the pods have the CPUs of their nodes
        holds.append(math.floor(there / each))
        if not holds[-1]:
            raise SpecError(
                f"cluster.{name}_per_worker is {each:g}, a pod of the group {group.name} has {there:g}: a worker cannot "
                "span pods; lower it, or choose another --group"
            )
    return min(holds)


def configmap(order: Order) -> dict[str, Any]:
    """The spec, and the code where there is some."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{order.id}-spec", "labels": labels(order), "annotations": notes(order)},
        "data": {SPEC: order.text},
    }
    if order.code:
        body["binaryData"] = {ZIP: base64.b64encode(order.code.zipped).decode()}
    return body


def rayjob(template: Template, order: Order, *, need: Need, wish: Wish) -> dict[str, Any]:
    """The RayJob. Raises SpecError where the template has no pods for it."""
    chosen = pods(template, need, wish)
    body = copy.deepcopy(template.manifest)
    metadata = {key: body.get("metadata", {}).get(key) or {} for key in ("labels", "annotations")}
    queue = {QUEUE: wish.queue} if wish.queue else {}
    said = f"{need.fewest}" if need.fewest == need.most else f"{need.fewest}-{need.most}"
    body["metadata"] = {
        "name": order.id,
        "labels": metadata["labels"] | labels(order) | queue,
        "annotations": metadata["annotations"] | notes(order) | {WORKERS: said},
    }
    spec = body["spec"]
    spec["entrypoint"] = f"facscale run {FOLDER}/{SPEC}"
    environment = yaml.safe_load(spec.get("runtimeEnvYAML") or "") or {}
    if order.code:
        environment["working_dir"] = f"file://{FOLDER}/{ZIP}"
    if environment:
        spec["runtimeEnvYAML"] = yaml.safe_dump(environment)
    cluster = spec["rayClusterSpec"]
    groups = cluster.get("workerGroupSpecs") or []
    # data workers stay as the chart has them; of the groups that could train, the chosen one does
    kept = [one for one in groups if one["groupName"] == chosen.group.name or (need.gpus and not is_gpu(template, one))]
    cluster["workerGroupSpecs"] = kept
    for group in kept:
        if group["groupName"] == chosen.group.name:
            resize(group, chosen, grows=template.grows)
    for pod in [cluster["headGroupSpec"], *kept]:
        mount(pod["template"]["spec"], f"{order.id}-spec")
    if wish.image:
        reimage(body, wish.image)
    return body


def resize(group: dict[str, Any], chosen: Pods, *, grows: bool) -> None:
    """Begin with the fewest where Ray's autoscaler adds the others, else with all."""
    group["replicas"] = chosen.fewest if grows else chosen.most
    group["minReplicas"], group["maxReplicas"] = chosen.fewest, chosen.most


def mount(pod: dict[str, Any], named: str) -> None:
    """Let Ray's container of a pod see the spec."""
    pod.setdefault("volumes", []).append({"name": VOLUME, "configMap": {"name": named}})
    for container in pod["containers"]:
        if container["name"] in {HEAD, WORKER}:
            container.setdefault("volumeMounts", []).append({"name": VOLUME, "mountPath": FOLDER, "readOnly": True})


def reimage(body: dict[str, Any], image: str) -> None:
    """Everything that ran the chart's image runs this one: Ray's pods, what prepares them, and what submits."""
    spec = body["spec"]
    cluster = spec["rayClusterSpec"]
    found = [cluster["headGroupSpec"]["template"], *(one["template"] for one in cluster["workerGroupSpecs"])]
    templates = [*found, *filter(None, [spec.get("submitterPodTemplate")])]
    containers = [
        one for pod in templates for key in ("containers", "initContainers") for one in pod["spec"].get(key) or []
    ]
    ours = {one["image"] for one in containers if one["name"] in {HEAD, WORKER}}
    for container in containers:
        if container.get("image") in ours:
            container["image"] = image


def is_gpu(template: Template, group: dict[str, Any]) -> bool:
    """Whether pods of a group of the manifest have GPUs."""
    return any(one.gpus for one in template.groups if one.name == group["groupName"])


def labels(order: Order) -> dict[str, str]:
    """What all objects of a job are found by."""
    return PART | {JOB: order.id[:-9], DIGEST: order.digest[:16], TRAINS: order.trains}


def notes(order: Order) -> dict[str, str]:
    """What people want to know, and labels cannot hold."""
    return {NAME: order.job, WHO: who(), WORDS: order.words}
