"""Jobs on a Kubernetes cluster: each is a RayJob that brings its own Ray cluster."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from facscale.cluster.kubernetes import manifest, template, waiting
from facscale.cluster.kubernetes.api import CONFIGMAPS, EVENTS, PODS, RAYJOBS, WORKLOADS, Api, Resource
from facscale.cluster.kubernetes.clusters import KubePlace
from facscale.cluster.kubernetes.failures import GoneError, KubeError
from facscale.cluster.kubernetes.host import Standing, State
from facscale.cluster.kubernetes.manifest import Wish
from facscale.cluster.kubernetes.order import Need, Order
from facscale.cluster.kubernetes.template import Template

OURS = "app.kubernetes.io/part-of=facscale"
PATIENCE_S = 90.0  # for an object that is to go
PAUSE_S = 1.0
FRACTION = re.compile(r"\.\d+")


class RayJobs:
    """The jobs of one namespace (a `Host`)."""

    def __init__(self, place: KubePlace) -> None:
        """Raises KubeError where the kubeconfig has no such context; nothing is asked yet."""
        self.place = place
        self.api = Api(place)
        self._workloads: Resource | None = None

    @cached_property
    def template(self) -> Template:
        """What jobs are made from. Raises KubeError."""
        return template.load(self.api)

    def jobs(self) -> list[Standing]:
        """All of ours in the namespace, the newest first."""
        found = self.api.list(RAYJOBS, labels=OURS)
        newest = sorted(found, key=lambda one: one["metadata"]["creationTimestamp"], reverse=True)
        return [standing(one) for one in newest]

    def look(self, job: str) -> Standing:
        """One job, with what it waits for."""
        rayjob = self._get(job)
        return standing(rayjob, self._around(rayjob))

    def log(self, job: str) -> PodLog:
        """What its submitter repeats of it."""
        return PodLog(self.api, job)

    def lines(self, job: str, *, last: int | None = None) -> list[str]:
        """All of that until now, or its end."""
        pod = submitter(self.api, job)
        query = {"tailLines": str(last)} if last else {}
        return self.api.log(pod["metadata"]["name"], query=_of(pod) | query).splitlines() if pod else []

    def submit(self, order: Order, *, need: Need, wish: Wish) -> str:
        """Try both objects without making them, then make them; nothing is left where the second cannot be made."""
        spec = manifest.configmap(order)
        job = manifest.rayjob(self.template, order, need=need, wish=wish)
        if self.api.get(RAYJOBS, order.id) is None:  # a submission that was cut off may have left its spec
            self.api.delete(CONFIGMAPS, spec["metadata"]["name"])
        for kind, body in ((CONFIGMAPS, spec), (RAYJOBS, job)):
            self.api.create(kind, body, dry_run=True)
        self.api.create(CONFIGMAPS, spec, dry_run=False)
        try:
            made = self.api.create(RAYJOBS, job, dry_run=False)
        except BaseException:
            self.api.delete(CONFIGMAPS, spec["metadata"]["name"])
            raise
        owner = {"apiVersion": job["apiVersion"], "kind": "RayJob", "name": order.id, "uid": made["metadata"]["uid"]}
        try:
            self.api.patch(CONFIGMAPS, spec["metadata"]["name"], {"metadata": {"ownerReferences": [owner]}})
        except BaseException:
            self.api.delete(RAYJOBS, order.id)
            self.api.delete(CONFIGMAPS, spec["metadata"]["name"])
            raise
        return order.id

    def remove(self, job: str) -> None:
        """The RayJob with all that it owns, and the spec of one that was never made."""
        self.api.delete(RAYJOBS, job)
        self.api.delete(CONFIGMAPS, f"{job}-spec")
        self._wait_until_gone(RAYJOBS, job)
        self._wait_until_gone(CONFIGMAPS, f"{job}-spec")

    def cancel(self, job: str) -> None:
        """KubeRay stops the Ray job, then its cluster goes. Kueue would start again what is merely suspended."""
        self._get(job)
        self.remove(job)

    def _get(self, job: str) -> dict[str, Any]:
        found = self.api.get(RAYJOBS, job)
        if found is None:
            raise GoneError(f"{self.place.name}: there is no RayJob {job} in {self.api.namespace} (any more)")
        return found

    def _around(self, rayjob: Mapping[str, Any]) -> waiting.Around:
        """Nothing, while nothing is waited for."""
        at, name = waiting.state(rayjob), rayjob["metadata"]["name"]
        if at is State.QUEUED:
            uid = rayjob["metadata"]["uid"]
            return waiting.Around(workloads=self.api.list(self._kueue(), labels=f"kueue.x-k8s.io/job-uid={uid}"))
        if at not in {State.STARTING, State.RETRYING}:
            return waiting.Around()
        cluster = (rayjob.get("status") or {}).get("rayClusterName", "")
        pods = self.api.list(PODS, labels=f"ray.io/cluster={cluster}") if cluster else []
        pods += self.api.list(PODS, labels=f"batch.kubernetes.io/job-name={name}")
        known = {name, cluster, *(pod["metadata"]["name"] for pod in pods)}
        events = self.api.list(EVENTS, fields="type=Warning")
        return waiting.Around((), pods, [event for event in events if event["involvedObject"].get("name") in known])

    def _kueue(self) -> Resource:
        if self._workloads is None:
            version = self.api.groups().get(WORKLOADS.group, WORKLOADS.version)
            self._workloads = WORKLOADS._replace(version=version)
        return self._workloads

    def _wait_until_gone(self, kind: Resource, name: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.api.get(kind, name) is not None:
            if time.monotonic() > end:
                raise KubeError(
                    f"{self.place.name}: {kind.full} {name} is deleted, but does not go: does the KubeRay operator run? It "
                    "removes the finalizer once the job has stopped"
                )
            time.sleep(PAUSE_S)


class PodLog:
    """A job's log through its submitter's pod; after a retry, that of the new one."""

    def __init__(self, api: Api, job: str) -> None:
        self._api, self._job = api, job
        self._pod = ""
        self._since, self._shown = "", 0  # the second of the last line, and how many lines of it were shown

    def more(self) -> list[str]:
        """Lines since the last time."""
        pod = submitter(self._api, self._job)
        if pod is None:
            return []
        if pod["metadata"]["name"] != self._pod:
            self._pod, self._since, self._shown = pod["metadata"]["name"], "", 0
        query = _of(pod) | {"timestamps": "true", "sinceTime": self._since}
        stamped = [line.partition(" ") for line in self._api.log(self._pod, query=query).splitlines()]
        new = stamped[self._shown :]
        if new:
            self._since = second(new[-1][0])
            self._shown = sum(second(stamp) == self._since for stamp, _, _ in stamped)
        return [text for _, _, text in new]

    def close(self) -> None:
        """Nothing is held."""


def second(stamp: str) -> str:
    """2026-11-25T03:28:13.123456789Z without its fraction: the API server takes whole seconds, the first one included."""
    return FRACTION.sub("", stamp)


def submitter(api: Api, job: str) -> dict[str, Any] | None:
    """The newest pod of the RayJob's submitter."""
    pods = api.list(PODS, labels=f"batch.kubernetes.io/job-name={job}")
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def _of(pod: Mapping[str, Any]) -> dict[str, str]:
    """The first container is the submitter, by KubeRay's rule."""
    return {"container": pod["spec"]["containers"][0]["name"]}


def standing(rayjob: Mapping[str, Any], around: waiting.Around | None = None) -> Standing:
    """A RayJob in the words that all clusters share."""
    metadata = rayjob["metadata"]
    notes, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    state, failed = waiting.state(rayjob), int((rayjob.get("status") or {}).get("failed") or 0)
    return Standing(
        id=metadata["name"],
        job=notes.get(manifest.NAME, metadata["name"]),
        state=state,
        why=waiting.why(rayjob, around or waiting.Around()),
        workers=notes.get(manifest.WORKERS, ""),
        began=datetime.fromisoformat(metadata["creationTimestamp"]) if metadata.get("creationTimestamp") else None,
        who=notes.get(manifest.WHO, ""),
        words=notes.get(manifest.WORDS, ""),
        spec=labels.get(manifest.DIGEST, ""),
        trains=labels.get(manifest.TRAINS, ""),
        tries=max(1, failed if state is State.FAILED else failed + 1),
    )
