"""What KubeRay says of a RayCluster or a RayJob: the schema of its CRDs, and the rules that its operator adds to them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Doc = dict[str, Any]

MISSING = (
    "KubeRay's CRDs are not here: put ray.io_rayclusters.yaml and ray.io_rayjobs.yaml into ../shared/schemas/kuberay"
)
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST = {"RayCluster": 53, "RayJob": 47}  # characters of a name: the operator makes longer ones of it
TOKENS_SINCE = (2, 52, 0)  # Ray's version


def crds() -> Path | None:
    """The folder of the CRDs, beside this checkout or further up; None where there is none."""
    folders = (parent / "shared" / "schemas" / "kuberay" for parent in Path(__file__).resolve().parents[2:])
    return next((folder for folder in folders if folder.is_dir()), None)


@functools.cache
def validator(kind: str) -> jsonschema.Draft7Validator:
    """Of ray.io/v1; as strict as an API server that is asked to be (fieldValidation=Strict)."""
    folder = crds()
    assert folder, MISSING
    definition = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=yaml.CSafeLoader)
    version = next(part for part in definition["spec"]["versions"] if part["name"] == "v1")
    return jsonschema.Draft7Validator(closed(version["schema"]["openAPIV3Schema"], top=True))


def closed(node: Doc, *, top: bool = False) -> Doc:
    """A schema of Kubernetes as JSON Schema: unknown fields are errors, defaults are never missing."""
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {
        key: value
        for key, value in node.items()
        if key in {"type", "enum", "pattern", "minimum", "maximum", "maxLength"}
    }
    made |= {
        key: node[key] for key in ("minItems", "maxItems", "minLength", "minProperties", "maxProperties") if key in node
    }
    if "items" in node:
        made["items"] = closed(node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(node["additionalProperties"])
    if "properties" in node:
        parts = node["properties"]
        made["properties"] = {name: closed(part) for name, part in parts.items()}
        made["required"] = [name for name in node.get("required", []) if "default" not in parts[name]]
        made["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    if top:
        made["properties"]["metadata"] = {"type": "object"}
    return made


def pruned(value: Any) -> Any:
    """Without nulls, which the API server drops."""
    if isinstance(value, dict):
        return {key: pruned(part) for key, part in value.items() if part is not None}
    return [pruned(part) for part in value] if isinstance(value, list) else value


def schema_errors(doc: Doc) -> list[str]:
    """What the API server would refuse, each with its path."""
    found = validator(doc["kind"]).iter_errors(pruned(doc))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


def operator_errors(doc: Doc) -> list[str]:
    """What the API server takes and the operator then refuses, by its own validation."""
    kind, name = doc["kind"], doc["metadata"]["name"]
    errors = []
    if len(name) > LONGEST[kind] or not DNS_1035.fullmatch(name):
        errors.append(f"{name}: not a DNS-1035 label of at most {LONGEST[kind]} characters")
    if kind == "RayJob":
        errors += _job_errors(doc["spec"])
    cluster = doc["spec"].get("rayClusterSpec") if kind == "RayJob" else doc["spec"]
    return errors + (list(_cluster_errors(cluster)) if cluster else [])


def _job_errors(spec: Doc) -> list[str]:
    selector, mode = spec.get("clusterSelector"), spec.get("submissionMode", "K8sJobMode")
    ends = spec.get("shutdownAfterJobFinishes", False)
    auth = (spec.get("rayClusterSpec") or {}).get("authOptions", {})
    rules = {
        "unknown submissionMode": mode not in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
        "neither rayClusterSpec nor clusterSelector": not selector and not spec.get("rayClusterSpec"),
        "suspend and ttlSecondsAfterFinished need shutdownAfterJobFinishes": not ends
        and bool(spec.get("suspend") or spec.get("ttlSecondsAfterFinished")),
        "clusterSelector excludes suspend, backoffLimit and SidecarMode": bool(selector)
        and bool(spec.get("suspend") or spec.get("backoffLimit") or mode == "SidecarMode"),
        "deletionRules exclude shutdownAfterJobFinishes": ends and "deletionRules" in spec.get("deletionStrategy", {}),
        "enableK8sTokenAuth is not for RayJobs": bool(auth.get("enableK8sTokenAuth")),
        "SidecarMode has no submitter": mode == "SidecarMode"
        and bool(spec.get("submitterPodTemplate") or spec.get("submitterConfig")),
        "InteractiveMode has no retries": mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0,
        "activeDeadlineSeconds is 0": spec.get("activeDeadlineSeconds", 1) <= 0,
        "a submitter without a container": "submitterPodTemplate" in spec
        and not spec["submitterPodTemplate"]["spec"].get("containers"),
    }
    return [words for words, broken in rules.items() if broken]


def _cluster_errors(spec: Doc) -> Iterator[str]:
    groups = [("head", spec["headGroupSpec"]), *((one["groupName"], one) for one in spec.get("workerGroupSpecs", []))]
    v2 = spec.get("enableInTreeAutoscaling") and spec.get("autoscalerOptions", {}).get("version") == "v2"
    for name, group in groups:
        pod = group["template"]["spec"]
        if not pod.get("containers"):
            yield f"{name}: no container"
        if v2 and pod.get("restartPolicy", "Never") != "Never":
            yield f"{name}: autoscaler v2 needs restartPolicy Never"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 2**31):
            yield f"{name}: minReplicas above maxReplicas"
        if "labels" in group.get("rayStartParams", {}):
            yield f"{name}: labels belong into the group's own field"
    if spec.get("authOptions", {}).get("mode") == "token":
        version = tuple(map(int, re.findall(r"\d+", spec.get("rayVersion", "0"))[:3]))
        if version < TOKENS_SINCE:
            yield f"rayVersion {spec.get('rayVersion')}: token authentication needs 2.52.0"
    if "gcsFaultToleranceOptions" in spec:
        head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
        if {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & {one["name"] for one in head.get("env", [])}:
            yield "head: Redis is said by gcsFaultToleranceOptions alone"
