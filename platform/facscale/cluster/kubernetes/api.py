"""A connected Kubernetes API: a few verbs over plain dictionaries, and failures that say what to do.

kubeconfig, tokens and certificates are the client library's; what it would raise becomes one `KubeError` (`failures`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from kubernetes import client, config

from facscale.cluster.kubernetes import failures
from facscale.cluster.kubernetes.clusters import KubePlace, places
from facscale.cluster.kubernetes.failures import KubeError
from facscale.spec import nearest

__all__ = ["CONFIGMAPS", "EVENTS", "PODS", "RAYJOBS", "WORKLOADS", "Api", "KubeError", "Resource"]

TIMEOUT_S = (5.0, 30.0)  # to connect, to answer
MERGE = "application/merge-patch+json"


class Resource(NamedTuple):
    """One kind of object in the API."""

    group: str  # "" of the core
    version: str
    plural: str

    @property
    def full(self) -> str:
        """As `kubectl` names it: rayjobs.ray.io."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """Of all objects of a namespace, or of one."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}{'/' if name else ''}{name}"


CONFIGMAPS = Resource("", "v1", "configmaps")
PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
RAYJOBS = Resource("ray.io", "v1", "rayjobs")
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta1", "workloads")  # the version is the cluster's: `Api.groups`


class Api:
    """The API server of one place. Every method raises KubeError for whatever it does not get."""

    def __init__(self, place: KubePlace) -> None:
        """Raises KubeError for a kubeconfig that is missing, or has no such context. Nothing is asked yet."""
        self.place = place
        chosen = _context(place)
        self.namespace = place.namespace or str(chosen["context"].get("namespace") or "default")
        settings = client.Configuration()
        settings.retries = urllib3.Retry(total=2, backoff_factor=0.2, redirect=0)
        _say_no_traceback()
        try:
            self.client = config.new_client_from_config(  # type: ignore[no-untyped-call]
                kubeconfig(), context=place.context, persist_config=False, client_configuration=settings
            )
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise KubeError(
                f"{kubeconfig()}: context {place.context} cannot be used: {error}; `kubectl --context "
                f"{place.context} get pods` should work first"
            ) from None
        self.server = str(settings.host)

    def groups(self) -> dict[str, str]:
        """The API groups beyond the core, and the version that the server prefers of each."""
        found = json.loads(self.request("GET", "/apis", asking=("get", "the list of API groups")))
        return {group["name"]: group["preferredVersion"]["version"] for group in found["groups"]}

    def version(self) -> str:
        """Of the server: v1.33.2."""
        return str(json.loads(self.request("GET", "/version", asking=("get", "the version")))["gitVersion"])

    def namespace_exists(self) -> bool | None:
        """None where we may not know."""
        status = self.send("GET", f"/api/v1/namespaces/{self.namespace}").status
        return {200: True, 404: False}.get(status)

    def get(self, kind: Resource, name: str) -> dict[str, Any] | None:
        """One object; None where there is none of that name."""
        answer = self.send("GET", kind.path(self.namespace, name))
        if answer.status == 404 and "NotFound" in answer.text:
            return None
        return json.loads(self._good(answer, ("get", kind.full, name)))

    def list(self, kind: Resource, *, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        """Objects of the namespace that the selectors choose."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        answer = self.send("GET", kind.path(self.namespace), query=query)
        items: list[dict[str, Any]] = json.loads(self._good(answer, ("list", kind.full)))["items"]
        return items

    def create(self, kind: Resource, body: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
        """The object as the server made it; a dry run asks admission and makes nothing. A field that no schema knows is refused."""
        query = {"fieldValidation": "Strict", "fieldManager": "facscale", "dryRun": "All" if dry_run else ""}
        answer = self.send("POST", kind.path(self.namespace), query=query, body=body)
        return json.loads(self._good(answer, ("create", kind.full, body["metadata"]["name"])))

    def patch(self, kind: Resource, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `body` into an object."""
        answer = self.send("PATCH", kind.path(self.namespace, name), body=body, content=MERGE)
        return json.loads(self._good(answer, ("patch", kind.full, name)))

    def delete(self, kind: Resource, name: str) -> None:
        """An object and, by and by, all that it owns; nothing where it is gone already."""
        body = {"propagationPolicy": "Background"}
        answer = self.send("DELETE", kind.path(self.namespace, name), body=body)
        if answer.status != 404:
            self._good(answer, ("delete", kind.full, name))

    def log(self, pod: str, *, query: Mapping[str, str]) -> str:
        """What a container of a pod has printed; "" while it has not begun."""
        answer = self.send("GET", f"{PODS.path(self.namespace, pod)}/log", query=query)
        if answer.status in {400, 404}:  # waiting to start, or gone
            return ""
        return self._good(answer, ("get", "pods/log", pod))

    def request(self, method: str, path: str, *, asking: tuple[str, ...], body: Mapping[str, Any] | None = None) -> str:
        """Any other question. `asking` is for errors: verb, resource and perhaps name."""
        return self._good(self.send(method, path, body=body), asking)

    def send(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None, content: str = "application/json",
    ) -> failures.Answer:  # fmt: skip
        """What the server says, whatever that is. Raises KubeError only where there is no answer."""
        given = [(name, value) for name, value in (query or {}).items() if value]
        headers = {"Accept": "application/json, */*", "Content-Type": content}
        try:
            _, url, headers, body, _ = self.client.param_serialize(
                method=method, resource_path=path, query_params=given, header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            response = self.client.call_api(method, url, headers, body, _request_timeout=TIMEOUT_S)
            return failures.Answer(response.status, response.read().decode(errors="replace"))
        except (urllib3.exceptions.HTTPError, OSError, client.ApiException) as error:
            raise failures.unreachable(error, place=self.place, server=self.server) from None

    def _good(self, answer: failures.Answer, asking: tuple[str, ...]) -> str:
        if answer.status < 300:
            return answer.text
        raise failures.explained(answer, asking=failures.Question(*asking), place=self.place, namespace=self.namespace)


def _context(place: KubePlace) -> dict[str, Any]:
    """The entry of the kubeconfig. Raises KubeError."""
    try:
        contexts, _ = config.list_kube_config_contexts(kubeconfig())  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise KubeError(
            f"{kubeconfig()}: no usable kubeconfig: {error}. Get one from whoever runs the cluster (for instance `gcloud "
            f"container clusters get-credentials`), or set KUBECONFIG; Ray clusters need none: --ray"
        ) from None
    named = {str(entry["name"]): entry for entry in contexts}
    if place.context not in named:
        known = [*named, *(name for name, other in places().items() if isinstance(other, KubePlace))]
        through = "" if place.name == place.context else f" (the context of {place.name} in your clusters file)"
        raise KubeError(
            f'{kubeconfig()}: there is no context "{place.context}"{through}{nearest(place.context, sorted(set(known)))}'
        )
    return named[place.context]


def kubeconfig() -> str:
    """The file, or several with colons between them, as kubectl takes them."""
    paths = (os.environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep)
    return os.pathsep.join(str(Path(path).expanduser()) for path in paths if path)


def _say_no_traceback() -> None:
    """The libraries below tell each failed try; we tell the last."""
    for name in ("urllib3.connectionpool", "kubernetes.client.rest"):
        logging.getLogger(name).setLevel(logging.ERROR)
