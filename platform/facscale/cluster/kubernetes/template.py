"""The chart's template of a RayJob, read from a ConfigMap of the namespace, and the environment of its pods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from facscale.cluster.kubernetes.api import CONFIGMAPS, KubeApi
from facscale.cluster.kubernetes.errors import KubeError, build_namespace_error, build_template_error
from facscale.spec import yaml_io

LABEL = "facscale.dev/template=rayjob"
KEY = "rayjob.yaml"
HEAD, WORKER = "ray-head", "ray-worker"  # the containers that run Ray
GPU = "nvidia.com/gpu"
UNLIMITED = 2**31 - 1  # KubeRay's default of maxReplicas
UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class WorkerGroup:
    """A group of equal worker pods."""

    name: str
    gpus: int  # of each pod
    cpus: float  # of each pod; 0: as many as its node has
    max_pods: int


@dataclass(frozen=True)
class RayJobTemplate:
    """The RayJob of the chart, without a job."""

    source: str  # name of the ConfigMap
    manifest: dict[str, Any]
    environment: dict[str, str]  # variables of its Ray pods, without secrets

    @property
    def worker_groups(self) -> list[WorkerGroup]:
        """The worker groups in the manifest's order."""
        return [_parse_group(group) for group in self.manifest["spec"]["rayClusterSpec"].get("workerGroupSpecs") or []]

    @property
    def cluster_name(self) -> str:
        """The name under which its jobs log to MLflow; "" if the chart sets none."""
        return self.environment.get("FACSCALE_CLUSTER", "")


def load_template(api: KubeApi) -> RayJobTemplate:
    """Load the only template of the namespace, or the one that the clusters file names. Raises KubeError."""
    target = api.target
    candidates = [api.get(CONFIGMAPS, target.template)] if target.template else api.list(CONFIGMAPS, labels=LABEL)
    configmaps = [configmap for configmap in candidates if configmap]
    if not configmaps:
        if api.has_namespace() is False:
            raise build_namespace_error(target, api.namespace)
        raise build_template_error(target, api.namespace)
    if len(configmaps) > 1:
        names = ", ".join(sorted(configmap["metadata"]["name"] for configmap in configmaps))
        raise KubeError(
            f"{target.name}: several charts left a template in {api.namespace}: {names}; choose one in your clusters "
            f"file: {target.name}: {{context: {target.context}, template: ...}}"
        )
    return parse_template(configmaps[0], api)


def parse_template(configmap: dict[str, Any], api: KubeApi) -> RayJobTemplate:
    """Parse the template in a ConfigMap. Raises KubeError if it holds no RayJob of the chart."""
    name = configmap["metadata"]["name"]
    try:
        manifest = yaml_io.load(configmap["data"][KEY])
        containers = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        (head,) = (container for container in containers if container["name"] == HEAD)
    except (KeyError, TypeError, ValueError, yaml_io.YAMLError) as error:
        raise KubeError(
            f"{api.target.name}: {KEY} in the ConfigMap {name} is no RayJob of our chart ({error!r}): `helm upgrade` "
            "writes it again"
        ) from None
    return RayJobTemplate(name, manifest, read_environment(head, api))


def read_environment(container: dict[str, Any], api: KubeApi) -> dict[str, str]:
    """Read the plain variables of a container: its own, and those of its ConfigMaps, but no secrets."""
    environment: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        if reference := source.get("configMapRef"):
            configmap = api.get(CONFIGMAPS, reference["name"])
            if configmap is None and not reference.get("optional"):
                raise KubeError(
                    f"{api.target.name}: the ConfigMap {reference['name']}, the pods' environment, is missing in "
                    f"{api.namespace}: `helm upgrade` writes it again"
                )
            prefix = source.get("prefix", "")
            environment |= {prefix + key: value for key, value in ((configmap or {}).get("data") or {}).items()}
    variables = container.get("env") or []
    return environment | {variable["name"]: variable["value"] for variable in variables if "value" in variable}


def parse_quantity(text: str | float) -> float:
    """Parse a number as Kubernetes writes it: 500m is 0.5."""
    digits = str(text).rstrip("mkMG")
    return float(digits) * UNITS[str(text)[len(digits) :]]


def _parse_group(group: dict[str, Any]) -> WorkerGroup:
    containers = group["template"]["spec"]["containers"]
    worker = next(container for container in containers if container["name"] == WORKER)
    resources = worker.get("resources") or {}
    limits = resources.get("limits") or {}
    ray_cpus = (group.get("rayStartParams") or {}).get("num-cpus")
    pod_cpus = limits.get("cpu") or (resources.get("requests") or {}).get("cpu") or 0
    return WorkerGroup(
        group["groupName"],
        int(limits.get(GPU, 0)),
        float(ray_cpus) if ray_cpus else parse_quantity(pod_cpus),
        int(group.get("maxReplicas", UNLIMITED)),
    )
