"""Validate a RayCluster, a RayJob or a RayService as KubeRay does: by the schemas of its CRDs, and by its operator's own rules."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Doc = dict[str, Any]

MISSING = "KubeRay's CRDs are not here: put ray.io_rayclusters.yaml, ray.io_rayjobs.yaml and ray.io_rayservices.yaml into ../shared/schemas/kuberay"
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
MAX_NAME_LENGTH = {"RayCluster": 53, "RayJob": 47, "RayService": 47}  # the operator derives longer names from it
TOKENS_SINCE = (2, 52, 0)  # Ray's version


def find_crds() -> Path | None:
    """Find the folder of the CRDs, beside this checkout or further up; None if there is none."""
    folders = (parent / "shared" / "schemas" / "kuberay" for parent in Path(__file__).resolve().parents[2:])
    return next((folder for folder in folders if folder.is_dir()), None)


@functools.cache
def load_validator(kind: str) -> jsonschema.Draft7Validator:
    """Load the schema of a kind of ray.io/v1; as strict as an API server with fieldValidation=Strict."""
    folder = find_crds()
    assert folder, MISSING
    definition = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=yaml.CSafeLoader)
    version = next(part for part in definition["spec"]["versions"] if part["name"] == "v1")
    return jsonschema.Draft7Validator(to_json_schema(version["schema"]["openAPIV3Schema"], top=True))


def to_json_schema(node: Doc, *, top: bool = False) -> Doc:
    """Convert a schema of Kubernetes to JSON Schema: unknown fields are errors, fields with defaults are optional."""
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    schema = {
        key: value
        for key, value in node.items()
        if key in {"type", "enum", "pattern", "minimum", "maximum", "maxLength"}
    }
    schema |= {
        key: node[key] for key in ("minItems", "maxItems", "minLength", "minProperties", "maxProperties") if key in node
    }
    if "items" in node:
        schema["items"] = to_json_schema(node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = to_json_schema(node["additionalProperties"])
    if "properties" in node:
        parts = node["properties"]
        schema["properties"] = {name: to_json_schema(part) for name, part in parts.items()}
        schema["required"] = [name for name in node.get("required", []) if "default" not in parts[name]]
        schema["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    if top:
        schema["properties"]["metadata"] = {"type": "object"}
    return schema


def drop_nulls(value: Any) -> Any:
    """Remove nulls, as the API server does."""
    if isinstance(value, dict):
        return {key: drop_nulls(part) for key, part in value.items() if part is not None}
    return [drop_nulls(part) for part in value] if isinstance(value, list) else value


QUEUE = "kueue.x-k8s.io/queue-name"


def list_schema_errors(doc: Doc) -> list[str]:
    """List what the API server would refuse, each with its path."""
    errors = load_validator(doc["kind"]).iter_errors(drop_nulls(doc))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]


def list_operator_errors(doc: Doc) -> list[str]:
    """List what the API server accepts and the operator then refuses, by its own validation."""
    kind, name = doc["kind"], doc["metadata"]["name"]
    errors = []
    if len(name) > MAX_NAME_LENGTH[kind] or not DNS_1035.fullmatch(name):
        errors.append(f"{name}: not a DNS-1035 label of at most {MAX_NAME_LENGTH[kind]} characters")
    if kind == "RayJob":
        errors += _job_errors(doc["spec"])
    keys = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
    cluster = doc["spec"].get(keys[kind]) if kind in keys else doc["spec"]
    return errors + (list(_cluster_errors(cluster)) if cluster else [])


def list_kueue_errors(doc: Doc) -> list[str]:
    """List what Kueue 0.19's webhooks refuse in a RayJob or RayCluster that names a queue."""
    metadata, spec = doc["metadata"], doc["spec"]
    if QUEUE not in metadata.get("labels", {}):
        return []
    cluster = spec["rayClusterSpec"] if doc["kind"] == "RayJob" else spec
    names = [group["groupName"] for group in cluster.get("workerGroupSpecs", [])]
    is_elastic = metadata.get("annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
    rules = {
        "clusterSelector with a cluster of its own": bool(spec.get("clusterSelector")),
        "shutdownAfterJobFinishes is not set": doc["kind"] == "RayJob" and not spec.get("shutdownAfterJobFinishes"),
        "enableInTreeAutoscaling, but no elastic job": bool(cluster.get("enableInTreeAutoscaling")) and not is_elastic,
        "more than 7 worker groups": len(names) > 7,
        "a worker group called head": "head" in names,
    }
    return [rule for rule, is_broken in rules.items() if is_broken]


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
    return [rule for rule, is_broken in rules.items() if is_broken]


def _cluster_errors(spec: Doc) -> Iterator[str]:
    groups = [
        ("head", spec["headGroupSpec"]),
        *((group["groupName"], group) for group in spec.get("workerGroupSpecs", [])),
    ]
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
        if {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & {variable["name"] for variable in head.get("env", [])}:
            yield "head: Redis belongs into gcsFaultToleranceOptions alone"
