"""Build the RayJob of a submission, and the ConfigMap with its spec, from the chart's template. Pure functions."""

from __future__ import annotations

import base64
import copy
import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from facscale.cluster.kubernetes.submission import JobSubmission, ResourceRequest, get_submitter
from facscale.cluster.kubernetes.template import GPU, HEAD, WORKER, RayJobTemplate, WorkerGroup
from facscale.spec import SpecError, suggest_nearest, yaml_io

MOUNT_PATH = "/etc/facscale/job"  # of the spec, in head and workers
SPEC_KEY, ZIP_KEY = "job.yaml", "code.zip"
VOLUME = "facscale-job"
PART_OF = {"app.kubernetes.io/part-of": "facscale"}
JOB_LABEL, DIGEST_LABEL, TRAINING_LABEL = "facscale.dev/job", "facscale.dev/spec", "facscale.dev/trains"
NAME_ANNOTATION = "facscale.dev/job-name"
SUBMITTER_ANNOTATION = "facscale.dev/submitted-by"
COMMAND_ANNOTATION = "facscale.dev/command"
WORKERS_ANNOTATION = "facscale.dev/workers"
OPTIONS_ANNOTATION = "facscale.dev/options"
QUEUE_LABEL, ELASTIC_ANNOTATION = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"


@dataclass(frozen=True)
class SubmitOptions:
    """Options of the command line beside the spec; "" for the chart's own choice."""

    image: str = ""
    queue: str = ""
    group: str = ""

    def format(self) -> str:
        """The options that were given, as they are written: "--image faces:2 --queue gpu"."""
        return " ".join(f"--{name} {value}" for name, value in vars(self).items() if value)


class PodPlan(NamedTuple):
    """The worker pods of a job."""

    group: WorkerGroup
    min_pods: int
    max_pods: int


def plan_pods(template: RayJobTemplate, request: ResourceRequest, options: SubmitOptions) -> PodPlan:
    """Choose the first worker group that can hold all workers, and count its pods. Raises SpecError if none can."""
    fitting = [group for group in template.worker_groups if bool(group.gpus) == bool(request.gpus_per_worker)]
    names = [group.name for group in fitting]
    kind = "GPU" if request.gpus_per_worker else "CPU"
    if options.group and options.group not in names:
        suggestion = suggest_nearest(options.group, names)
        raise SpecError(f"--group {options.group}: {template.source} has no such {kind} group{suggestion}")
    if not fitting:
        is_gpu_job = bool(request.gpus_per_worker)
        fix = "cluster.gpus_per_worker=0 trains on CPUs" if is_gpu_job else "add one to the chart's values"
        raise SpecError(f"{template.source} has no {kind} worker group (a GPU group has a limit {GPU}): {fix}")
    candidates = [group for group in fitting if options.group in {"", group.name}]
    for group in candidates:
        workers = count_workers_per_pod(group, request)
        plan = PodPlan(group, math.ceil(request.min_workers / workers), math.ceil(request.max_workers / workers))
        if plan.max_pods <= group.max_pods:
            return plan
    limits = ", ".join(
        f"{group.name} {group.max_pods} pods of {count_workers_per_pod(group, request)} workers" for group in candidates
    )
    raise SpecError(
        f"cluster.workers is {request.max_workers}, the cluster's bounds (maxReplicas) are {limits}: ask for fewer"
    )


def count_workers_per_pod(group: WorkerGroup, request: ResourceRequest) -> int:
    """Return how many workers a pod of the group holds. Raises SpecError if it holds none."""
    counts = [request.max_workers]
    needs = (("gpus", group.gpus, request.gpus_per_worker), ("cpus", group.cpus, request.cpus_per_worker))
    for name, available, amount in needs:
        if not available or not amount:
            continue  # the job needs no GPU, or the pods have the CPUs of their nodes
        counts.append(math.floor(available / amount))
        if not counts[-1]:
            raise SpecError(
                f"cluster.{name}_per_worker is {amount:g}, a pod of the group {group.name} has {available:g}: a worker "
                "cannot span pods; lower it, or choose another --group"
            )
    return min(counts)


def build_configmap(submission: JobSubmission, *, uid: str = "") -> dict[str, Any]:
    """Build the ConfigMap with the spec, and with the code if there is any. The RayJob with this uid owns it."""
    metadata: dict[str, Any] = {
        "name": f"{submission.id}-spec",
        "labels": build_labels(submission),
        "annotations": build_annotations(submission),
    }
    if uid:
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": submission.id, "uid": uid}
        metadata["ownerReferences"] = [owner]
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {SPEC_KEY: submission.spec_text},
    }
    if submission.code:
        body["binaryData"] = {ZIP_KEY: base64.b64encode(submission.code.content).decode()}
    return body


def build_rayjob(
    template: RayJobTemplate, submission: JobSubmission, *, request: ResourceRequest, options: SubmitOptions
) -> dict[str, Any]:
    """Build the RayJob. Raises SpecError if no worker group of the template can hold it."""
    plan = plan_pods(template, request, options)
    body = copy.deepcopy(template.manifest)
    metadata = {key: body.get("metadata", {}).get(key) or {} for key in ("labels", "annotations")}
    labels = metadata["labels"] | ({QUEUE_LABEL: options.queue} if options.queue else {})
    notes = {WORKERS_ANNOTATION: request.worker_range}
    if given := {name: value for name, value in vars(options).items() if value}:
        notes[OPTIONS_ANNOTATION] = json.dumps(given)
    body["metadata"] = {
        "name": submission.id,
        "labels": labels | build_labels(submission),
        "annotations": metadata["annotations"] | build_annotations(submission) | notes,
    }
    spec = body["spec"]
    spec["entrypoint"] = f"facscale run {MOUNT_PATH}/{SPEC_KEY}"
    environment = yaml_io.load(spec.get("runtimeEnvYAML") or "") or {}
    if submission.code:
        environment["working_dir"] = f"file://{MOUNT_PATH}/{ZIP_KEY}"
    if environment:
        spec["runtimeEnvYAML"] = yaml_io.dump(environment)
    cluster = spec["rayClusterSpec"]
    if QUEUE_LABEL in labels and ELASTIC_ANNOTATION not in metadata["annotations"]:
        disable_autoscaler(cluster)
    cluster["workerGroupSpecs"] = select_groups(
        template, plan, is_gpu_job=bool(request.gpus_per_worker), cluster=cluster
    )
    for group in cluster["workerGroupSpecs"]:
        if group["groupName"] == plan.group.name:
            set_replicas(group, plan, has_autoscaler=bool(cluster.get("enableInTreeAutoscaling")))
    for pod in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        mount_configmap(pod["template"]["spec"], f"{submission.id}-spec")
    if options.image:
        replace_image(body, options.image)
    return body


def select_groups(
    template: RayJobTemplate, plan: PodPlan, *, is_gpu_job: bool, cluster: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the worker groups of the manifest that a job keeps.

    That is the planned one, and for a GPU job also the groups without GPUs, whose workers load data.
    """
    gpu_groups = {group.name for group in template.worker_groups if group.gpus}
    groups: list[dict[str, Any]] = cluster.get("workerGroupSpecs") or []
    return [
        group
        for group in groups
        if group["groupName"] == plan.group.name or (is_gpu_job and group["groupName"] not in gpu_groups)
    ]


def set_replicas(group: dict[str, Any], plan: PodPlan, *, has_autoscaler: bool) -> None:
    """Start with the fewest pods if Ray's autoscaler can add the others, else with all."""
    group["replicas"] = plan.min_pods if has_autoscaler else plan.max_pods
    group["minReplicas"], group["maxReplicas"] = plan.min_pods, plan.max_pods


def disable_autoscaler(cluster: dict[str, Any]) -> None:
    """Give a cluster a fixed size. Kueue admits a job once, with all its pods, unless the job is elastic."""
    cluster["enableInTreeAutoscaling"] = False
    cluster.pop("autoscalerOptions", None)


def mount_configmap(pod: dict[str, Any], name: str) -> None:
    """Mount a ConfigMap into the containers of a pod that run Ray."""
    pod.setdefault("volumes", []).append({"name": VOLUME, "configMap": {"name": name}})
    for container in pod["containers"]:
        if container["name"] in {HEAD, WORKER}:
            mounts = container.setdefault("volumeMounts", [])
            mounts.append({"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": True})


def replace_image(body: dict[str, Any], image: str) -> None:
    """Replace the chart's image in all containers that run it: Ray's, their init containers', and the submitter's."""
    spec = body["spec"]
    cluster = spec["rayClusterSpec"]
    pods = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    pods += filter(None, [spec.get("submitterPodTemplate")])
    containers = [
        container
        for pod in pods
        for key in ("containers", "initContainers")
        for container in pod["spec"].get(key) or []
    ]
    chart_images = {container["image"] for container in containers if container["name"] in {HEAD, WORKER}}
    for container in containers:
        if container.get("image") in chart_images:
            container["image"] = image


def build_labels(submission: JobSubmission) -> dict[str, str]:
    """Build the labels of all objects of a job."""
    return PART_OF | {
        JOB_LABEL: submission.id[:-9],
        DIGEST_LABEL: submission.digest[:16],
        TRAINING_LABEL: submission.training_digest,
    }


def build_annotations(submission: JobSubmission) -> dict[str, str]:
    """Build the annotations of all objects of a job: text for people, which labels cannot hold."""
    return {
        NAME_ANNOTATION: submission.name,
        SUBMITTER_ANNOTATION: get_submitter(),
        COMMAND_ANNOTATION: submission.command,
    }
