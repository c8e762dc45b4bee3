"""Create clients of clusters, and query many clusters at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from facscale.cluster.kubernetes.client import ClusterClient, JobStatus
from facscale.cluster.kubernetes.clusters import ClusterTarget, RayTarget
from facscale.cluster.kubernetes.kuberay_client import KubeRayClient
from facscale.errors import UserError

Result = TypeVar("Result")
MAX_THREADS = 16


def create_client(target: ClusterTarget) -> ClusterClient:
    """Create the client of a cluster, without contacting it. Raises KubeError if the kubeconfig lacks the context."""
    if isinstance(target, RayTarget):
        from facscale.cluster.kubernetes.ray_client import RayJobsClient  # the import of Ray takes a second

        return RayJobsClient(target)
    return KubeRayClient(target)


def list_all_jobs(targets: Iterable[ClusterTarget]) -> dict[str, list[JobStatus] | UserError]:
    """List the jobs of all clusters by the cluster's name, or the error of a cluster that cannot be queried."""
    return query_clusters({target.name: target for target in targets}, lambda target: create_client(target).list_jobs())


def query_clusters(
    targets: Mapping[str, ClusterTarget], query: Callable[[ClusterTarget], Result]
) -> dict[str, Result | UserError]:
    """Run `query` for all clusters in threads; each result is what it returns, or the UserError that it raises."""

    def run_query(target: ClusterTarget) -> Result | UserError:
        try:
            return query(target)
        except UserError as error:
            return error

    with ThreadPoolExecutor(MAX_THREADS) as pool:
        return dict(zip(targets, pool.map(run_query, targets.values()), strict=True))
