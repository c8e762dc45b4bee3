"""Client of a Kubernetes namespace: each job is a RayJob, for which KubeRay creates a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from facscale.cluster.kubernetes import manifest
from facscale.cluster.kubernetes.api import CONFIGMAPS, EVENTS, PODS, RAYJOBS, WORKLOADS, KubeApi, Resource
from facscale.cluster.kubernetes.client import JobState, JobStatus, Submission
from facscale.cluster.kubernetes.clusters import KubeTarget
from facscale.cluster.kubernetes.errors import ConflictError, JobNotFoundError, KubeError
from facscale.cluster.kubernetes.job_state import RelatedObjects, derive_state, explain_state
from facscale.cluster.kubernetes.manifest import SubmitOptions
from facscale.cluster.kubernetes.submission import JobSubmission, ResourceRequest
from facscale.cluster.kubernetes.template import RayJobTemplate, load_template

PART_OF_SELECTOR = "app.kubernetes.io/part-of=facscale"
DELETION_TIMEOUT_S = 90.0
PAUSE_S = 1.0
FRACTION = re.compile(r"\.\d+")


class KubeRayClient:
    """The jobs of one namespace (a `ClusterClient`)."""

    def __init__(self, target: KubeTarget) -> None:
        """Read the kubeconfig, and send nothing. Raises KubeError if it has no such context."""
        self.target = target
        self.api = KubeApi(target)
        self._workloads: Resource | None = None

    @cached_property
    def template(self) -> RayJobTemplate:
        """The chart's template, loaded on first use. Raises KubeError."""
        return load_template(self.api)

    def list_jobs(self) -> list[JobStatus]:
        """List all jobs of facscale in the namespace, the newest first."""
        rayjobs = self.api.list(RAYJOBS, labels=PART_OF_SELECTOR)
        rayjobs.sort(key=lambda rayjob: rayjob["metadata"]["creationTimestamp"], reverse=True)
        return [parse_status(rayjob) for rayjob in rayjobs]

    def get_job(self, job: str) -> JobStatus:
        """Return the status of a job, with the reason if it is pending. Raises JobNotFoundError."""
        rayjob = self._get_rayjob(job)
        return parse_status(rayjob, self._fetch_related(rayjob))

    def open_log(self, job: str) -> PodLogStream:
        """Open the log of a job, which its submitter pod repeats."""
        return PodLogStream(self.api, job)

    def get_log(self, job: str, *, last: int | None = None) -> list[str]:
        """Return what the submitter pod has printed so far, or its last lines."""
        pod = find_submitter_pod(self.api, job)
        if pod is None:
            return []
        query = {"container": get_submitter_container(pod)} | ({"tailLines": str(last)} if last else {})
        return self.api.read_log(pod["metadata"]["name"], query=query).splitlines()

    def submit(
        self,
        submission: JobSubmission,
        *,
        request: ResourceRequest,
        options: SubmitOptions,
        replaced: str = "",  # noqa: ARG002 - a RayJob's uid tells it from its predecessor
    ) -> Submission:
        """Create the RayJob, then the ConfigMap with its spec, which it owns; both by a dry run first.

        The API server creates only one RayJob of a name: that decides between clients that submit the same at the same
        time. Its pods wait for the ConfigMap, which any of the clients creates.
        """
        rayjob = manifest.build_rayjob(self.template, submission, request=request, options=options)
        with contextlib.suppress(ConflictError):  # the dry run of a job that exists is not needed
            self.api.create(RAYJOBS, rayjob, dry_run=True)
        with contextlib.suppress(ConflictError):
            self.api.create(CONFIGMAPS, manifest.build_configmap(submission), dry_run=True)
        created, is_new = self._create_or_get(rayjob)
        try:
            self._create_configmap(submission, uid=created["metadata"]["uid"])
        except BaseException:
            if is_new:
                self.api.delete(RAYJOBS, submission.id, uid=created["metadata"]["uid"])
            raise
        return Submission(submission.id, is_new)

    def complete(self, submission: JobSubmission, job: JobStatus) -> None:
        """Create the ConfigMap of a RayJob whose submission was interrupted: its pods wait for it."""
        self._create_configmap(submission, uid=job.uid)

    def _create_or_get(self, rayjob: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Create a RayJob, or return that of another client; the second value tells whether it is new."""
        name, end = rayjob["metadata"]["name"], time.monotonic() + DELETION_TIMEOUT_S
        while True:
            try:
                return self.api.create(RAYJOBS, rayjob, dry_run=False), True
            except ConflictError:
                existing = self.api.get(RAYJOBS, name)
                if existing and "deletionTimestamp" not in existing["metadata"]:
                    return existing, False
                if existing:
                    self._wait_for_deletion(RAYJOBS, name, uid=existing["metadata"]["uid"])
                if time.monotonic() > end:
                    raise

    def _create_configmap(self, submission: JobSubmission, *, uid: str) -> None:
        """Create the ConfigMap of the RayJob with this uid, once that of an earlier job of the same name is gone.

        Kubernetes removes the latter, since its owner is gone. Raises KubeError for one that nobody owns.
        """
        configmap = manifest.build_configmap(submission, uid=uid)
        name, end = configmap["metadata"]["name"], time.monotonic() + DELETION_TIMEOUT_S
        while True:
            existing = self.api.get(CONFIGMAPS, name)
            if existing:
                metadata = existing["metadata"]
                if any(owner["uid"] == uid for owner in metadata.get("ownerReferences") or []):
                    return
                if not metadata.get("ownerReferences"):
                    raise KubeError(
                        f"{self.target.name}: the ConfigMap {name} belongs to no job, and is in the way of this one: have "
                        f"it removed (kubectl delete configmap {name} --namespace {self.api.namespace})"
                    )
                self._wait_for_deletion(CONFIGMAPS, name, uid=metadata["uid"])
            try:
                self.api.create(CONFIGMAPS, configmap, dry_run=False)
            except ConflictError:  # another client created it since
                if time.monotonic() > end:
                    raise
            else:
                return

    def remove(self, job: JobStatus) -> None:
        """Delete the RayJob with all that it owns, and wait until it is gone."""
        self.api.delete(RAYJOBS, job.id, uid=job.uid)
        self._wait_for_deletion(RAYJOBS, job.id, uid=job.uid)

    def cancel(self, job: str) -> None:
        """Delete the RayJob: KubeRay stops the Ray job, then deletes its cluster.

        Suspending it would not do: Kueue would start it again.
        """
        self.remove(parse_status(self._get_rayjob(job)))

    def _get_rayjob(self, job: str) -> dict[str, Any]:
        rayjob = self.api.get(RAYJOBS, job)
        if rayjob is None:
            raise JobNotFoundError(f"{self.target.name}: there is no RayJob {job} in {self.api.namespace} (any more)")
        return rayjob

    def _fetch_related(self, rayjob: Mapping[str, Any]) -> RelatedObjects:
        """Fetch the objects that can explain why a job is pending; none for a job that is not."""
        state, name = derive_state(rayjob), rayjob["metadata"]["name"]
        if state is JobState.QUEUED:
            uid = rayjob["metadata"]["uid"]
            workloads = self.api.list(self._get_workloads_resource(), labels=f"kueue.x-k8s.io/job-uid={uid}")
            return RelatedObjects(workloads=workloads)
        if state not in {JobState.STARTING, JobState.RETRYING}:
            return RelatedObjects()
        cluster = (rayjob.get("status") or {}).get("rayClusterName", "")
        pods = self.api.list(PODS, labels=f"ray.io/cluster={cluster}") if cluster else []
        pods += self.api.list(PODS, labels=f"batch.kubernetes.io/job-name={name}")
        names = {name, cluster, *(pod["metadata"]["name"] for pod in pods)}
        warnings = self.api.list(EVENTS, fields="type=Warning")
        events = [event for event in warnings if event["involvedObject"].get("name") in names]
        return RelatedObjects(pods=pods, events=events)

    def _get_workloads_resource(self) -> Resource:
        if self._workloads is None:
            version = self.api.get_groups().get(WORKLOADS.group, WORKLOADS.version)
            self._workloads = WORKLOADS._replace(version=version)
        return self._workloads

    def _wait_for_deletion(self, resource: Resource, name: str, *, uid: str) -> None:
        """Wait until the object with this uid is gone. Raises KubeError after 90 seconds."""
        end = time.monotonic() + DELETION_TIMEOUT_S
        while (existing := self.api.get(resource, name)) and existing["metadata"]["uid"] == uid:
            if time.monotonic() > end:
                raise KubeError(
                    f"{self.target.name}: {resource.full_name} {name} is deleted, but does not go: does the KubeRay "
                    "operator run? It removes the finalizer once the job has stopped"
                )
            time.sleep(PAUSE_S)


class PodLogStream:
    """The log of a job, read from its submitter pod; after a retry, from the new one (a `LogStream`)."""

    def __init__(self, api: KubeApi, job: str) -> None:
        self._api, self._job = api, job
        self._pod = ""
        self._since, self._seen = "", 0  # the second of the last line, and how many lines of that second were returned

    def read_new(self) -> list[str]:
        """Return the lines since the last call.

        The API server's `sinceTime` has whole seconds, and includes the first; the lines of that second that were
        returned already are skipped.
        """
        pod = find_submitter_pod(self._api, self._job)
        if pod is None:
            return []
        if pod["metadata"]["name"] != self._pod:
            self._pod, self._since, self._seen = pod["metadata"]["name"], "", 0
        query = {"container": get_submitter_container(pod), "timestamps": "true", "sinceTime": self._since}
        stamped = [line.partition(" ") for line in self._api.read_log(self._pod, query=query).splitlines()]
        new = stamped[self._seen :]
        if new:
            self._since = truncate_to_second(new[-1][0])
            self._seen = sum(truncate_to_second(stamp) == self._since for stamp, _, _ in stamped)
        return [text for _, _, text in new]

    def close(self) -> None:
        """Do nothing: no connection stays open."""


def truncate_to_second(stamp: str) -> str:
    """Remove the fraction of a timestamp: 2026-11-25T03:28:13.123456789Z becomes 2026-11-25T03:28:13Z."""
    return FRACTION.sub("", stamp)


def find_submitter_pod(api: KubeApi, job: str) -> dict[str, Any] | None:
    """Return the newest submitter pod of a RayJob."""
    pods = api.list(PODS, labels=f"batch.kubernetes.io/job-name={job}")
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def get_submitter_container(pod: Mapping[str, Any]) -> str:
    """Return the name of the submitter's container, which KubeRay always puts first."""
    return str(pod["spec"]["containers"][0]["name"])


def parse_status(rayjob: Mapping[str, Any], related: RelatedObjects | None = None) -> JobStatus:
    """Convert a RayJob to the status that all clusters share."""
    metadata = rayjob["metadata"]
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    state, failures = derive_state(rayjob), int((rayjob.get("status") or {}).get("failed") or 0)
    created = metadata.get("creationTimestamp")
    return JobStatus(
        id=metadata["name"],
        name=annotations.get(manifest.NAME_ANNOTATION, metadata["name"]),
        state=state,
        reason=explain_state(rayjob, related or RelatedObjects()),
        workers=annotations.get(manifest.WORKERS_ANNOTATION, ""),
        submitted_at=datetime.fromisoformat(created) if created else None,
        submitter=annotations.get(manifest.SUBMITTER_ANNOTATION, ""),
        command=annotations.get(manifest.COMMAND_ANNOTATION, ""),
        digest=labels.get(manifest.DIGEST_LABEL, ""),
        training_digest=labels.get(manifest.TRAINING_LABEL, ""),
        attempts=max(1, failures if state is JobState.FAILED else failures + 1),
        options=SubmitOptions(**json.loads(annotations.get(manifest.OPTIONS_ANNOTATION) or "{}")),
        uid=metadata.get("uid", ""),
    )
