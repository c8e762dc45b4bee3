"""Jobs on other clusters: Kubernetes with KubeRay, and Ray clusters by address. No other room uses Kubernetes."""

from facscale.cluster.kubernetes.api import KubeApi
from facscale.cluster.kubernetes.client import ClusterClient, JobState, JobStatus
from facscale.cluster.kubernetes.clusters import (
    ClusterTarget,
    KubeTarget,
    RayTarget,
    load_targets,
    resolve_kube_target,
    resolve_ray_target,
)
from facscale.cluster.kubernetes.errors import KubeError
from facscale.cluster.kubernetes.fanout import create_client, list_all_jobs

__all__ = [
    "ClusterClient",
    "ClusterTarget",
    "JobState",
    "JobStatus",
    "KubeApi",
    "KubeError",
    "KubeTarget",
    "RayTarget",
    "create_client",
    "list_all_jobs",
    "load_targets",
    "resolve_kube_target",
    "resolve_ray_target",
]
