"""The pods that manifests make: all of them, whoever makes them, with what they may do and who selects them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

Doc = dict[str, Any]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


class Pod(NamedTuple):
    """One pod template, with the labels and containers that its operator adds."""

    where: str  # RayCluster/facscale head
    labels: Mapping[str, str]
    spec: Doc

    @property
    def containers(self) -> list[Doc]:
        """Those that start first too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def list_pods(docs: list[Doc]) -> list[Pod]:
    """Of all objects, and of the RayJob that lies in the ConfigMap of the chart."""
    return [pod for doc in docs for pod in _pods(doc)]


def load_rayjob(docs: list[Doc]) -> Doc:
    """The template of `facscale submit`."""
    templates = [doc for doc in docs if doc["metadata"].get("labels", {}).get("facscale.dev/template") == "rayjob"]
    assert len(templates) == 1
    return yaml.load(templates[0]["data"]["rayjob.yaml"], Loader=yaml.CSafeLoader)


def _pods(doc: Doc) -> Iterator[Pod]:
    kind, spec = doc["kind"], doc.get("spec", {})
    where = f"{kind}/{doc['metadata']['name']}"
    if kind == "Pod":
        yield Pod(where, doc["metadata"]["labels"], spec)
    elif kind in {"Deployment", "StatefulSet", "Job"}:
        yield Pod(where, spec["template"]["metadata"]["labels"], spec["template"]["spec"])
    elif kind == "RayCluster":
        yield from _cluster(where, spec)
    elif kind == "RayService":
        yield from _cluster(where, spec["rayClusterConfig"])
    elif kind == "RayJob":
        submitter = spec["submitterPodTemplate"]
        yield Pod(f"{where} submitter", submitter["metadata"]["labels"], submitter["spec"])
        yield from _cluster(where, spec["rayClusterSpec"])
    elif kind == "ConfigMap" and "rayjob.yaml" in doc["data"]:
        yield from _pods(yaml.load(doc["data"]["rayjob.yaml"], Loader=yaml.CSafeLoader))


def _cluster(where: str, spec: Doc) -> Iterator[Pod]:
    """Of a Ray cluster. The operator puts an autoscaler beside the head, made of autoscalerOptions."""
    head = spec["headGroupSpec"]["template"]
    scaler = [{"name": "autoscaler", **spec["autoscalerOptions"]}] if "autoscalerOptions" in spec else []
    head_spec = {**head["spec"], "containers": head["spec"]["containers"] + scaler}
    yield Pod(f"{where} head", head["metadata"]["labels"], head_spec)
    for group in spec["workerGroupSpecs"]:
        yield Pod(f"{where} {group['groupName']}", group["template"]["metadata"]["labels"], group["template"]["spec"])


def list_breaches(pod: Pod) -> list[str]:
    """What pod security "restricted" forbids, and the two that this chart asks for beyond it."""
    violations = [f"pod: {key}" for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.spec.get(key)]
    violations += [f"volume {volume['name']}" for volume in pod.spec.get("volumes", []) if not VOLUMES & volume.keys()]
    common = pod.spec.get("securityContext", {})
    for container in pod.containers:
        context = {**common, **container.get("securityContext", {})}
        rules = {
            "runs as root": context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0,
            "may gain privileges": context.get("allowPrivilegeEscalation") is not False,
            "is privileged": bool(context.get("privileged")),
            "keeps capabilities": context.get("capabilities") != {"drop": ["ALL"]},
            "has no seccomp profile": context.get("seccompProfile") != {"type": "RuntimeDefault"},
            "takes a port of its node": any("hostPort" in port for port in container.get("ports", [])),
            "may write to its root": context.get("readOnlyRootFilesystem") is not True,
        }
        violations += [f"{container['name']} {words}" for words, broken in rules.items() if broken]
    if pod.spec.get("automountServiceAccountToken") is not False:
        violations.append("pod: holds a key to the Kubernetes API")
    return violations


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses a pod; an empty one chooses all."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    tests = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    conditions = selector.get("matchExpressions", [])
    return all(tests[entry["operator"]](entry["key"], entry.get("values", [])) for entry in conditions)
