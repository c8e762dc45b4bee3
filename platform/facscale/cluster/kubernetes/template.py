"""The RayJob that the chart left in the namespace, for jobs to be made from; and the environment of its pods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from facscale.cluster.kubernetes import failures
from facscale.cluster.kubernetes.api import CONFIGMAPS, Api
from facscale.cluster.kubernetes.failures import KubeError

LABEL = "facscale.dev/template=rayjob"
KEY = "rayjob.yaml"
HEAD, WORKER = "ray-head", "ray-worker"  # the containers that run Ray
GPU = "nvidia.com/gpu"
UNBOUND = 2**31 - 1  # KubeRay's maxReplicas where nothing is said
UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Group:
    """Worker pods of one kind."""

    name: str
    gpus: int  # of each pod
    cpus: float  # 0: as many as its node has
    most: int  # pods


@dataclass(frozen=True)
class Template:
    """A RayJob without a job."""

    source: str  # the ConfigMap's name
    manifest: dict[str, Any]
    environment: dict[str, str]  # what its Ray pods see, secrets apart

    @property
    def groups(self) -> list[Group]:
        """Its worker groups in written order."""
        return [_group(group) for group in self.manifest["spec"]["rayClusterSpec"].get("workerGroupSpecs") or []]

    @property
    def grows(self) -> bool:
        """Whether Ray's autoscaler adds pods."""
        return bool(self.manifest["spec"]["rayClusterSpec"].get("enableInTreeAutoscaling"))

    @property
    def cluster(self) -> str:
        """What the pods call their cluster in MLflow; "" for nothing."""
        return self.environment.get("FACSCALE_CLUSTER", "")


def load(api: Api) -> Template:
    """The one template of the namespace, or the one that the clusters file names. Raises KubeError."""
    found = [api.get(CONFIGMAPS, api.place.template)] if api.place.template else api.list(CONFIGMAPS, labels=LABEL)
    maps = [one for one in found if one]
    if not maps:
        if api.namespace_exists() is False:
            raise failures.no_namespace(api.place, api.namespace)
        raise failures.no_template(api.place, api.namespace, api.place.template)
    if len(maps) > 1:
        names = ", ".join(sorted(one["metadata"]["name"] for one in maps))
        raise KubeError(
            f"{api.place.name}: several charts left a template in {api.namespace}: {names}; name one in your clusters file: "
            f"{api.place.name}: {{context: {api.place.context}, template: ...}}"
        )
    return read(maps[0], api)


def read(configmap: dict[str, Any], api: Api) -> Template:
    """Raises KubeError for a ConfigMap that holds no such RayJob."""
    name = configmap["metadata"]["name"]
    try:
        manifest = yaml.safe_load(configmap["data"][KEY])
        containers = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        (head,) = (one for one in containers if one["name"] == HEAD)
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise KubeError(
            f"{api.place.name}: {KEY} in the ConfigMap {name} is no RayJob of our chart ({error!r}): `helm upgrade` writes "
            "it anew"
        ) from None
    return Template(name, manifest, environment(head, api))


def environment(container: dict[str, Any], api: Api) -> dict[str, str]:
    """Variables of a container that are written in the open: its own, and those of its ConfigMaps."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        if reference := source.get("configMapRef"):
            configmap = api.get(CONFIGMAPS, reference["name"])
            if configmap is None and not reference.get("optional"):
                raise KubeError(
                    f"{api.place.name}: the pods' environment, ConfigMap {reference['name']}, is not in {api.namespace}: "
                    "`helm upgrade` writes it anew"
                )
            prefix = source.get("prefix", "")
            found |= {prefix + key: value for key, value in ((configmap or {}).get("data") or {}).items()}
    return found | {one["name"]: one["value"] for one in container.get("env") or [] if "value" in one}


def _group(group: dict[str, Any]) -> Group:
    container = next(one for one in group["template"]["spec"]["containers"] if one["name"] == WORKER)
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    said = (group.get("rayStartParams") or {}).get("num-cpus")
    asked = limits.get("cpu") or (resources.get("requests") or {}).get("cpu") or 0
    return Group(
        group["groupName"],
        int(limits.get(GPU, 0)),
        float(said) if said else quantity(asked),
        int(group.get("maxReplicas", UNBOUND)),
    )


def quantity(text: str | float) -> float:
    """As Kubernetes writes numbers: 500m is 0.5."""
    digits = str(text).rstrip("mkMG")
    return float(digits) * UNITS[str(text)[len(digits) :]]
