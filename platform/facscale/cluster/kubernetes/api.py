"""A client of one Kubernetes namespace: a few verbs over plain dictionaries, with errors that name the fix.

The client library handles the kubeconfig, tokens and certificates. Its exceptions become `KubeError` (`errors`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from kubernetes import client, config

from facscale.cluster.kubernetes.clusters import KubeTarget, load_targets
from facscale.cluster.kubernetes.errors import (
    ApiRequest,
    ApiResponse,
    ConflictError,
    KubeError,
    build_error,
    build_unreachable_error,
)
from facscale.spec import suggest_nearest

TIMEOUT_S = (5.0, 30.0)  # to connect, to read


class Resource(NamedTuple):
    """A kind of objects in the API."""

    group: str  # "": the core group
    version: str
    plural: str

    @property
    def full_name(self) -> str:
        """The name as `kubectl` writes it: rayjobs.ray.io."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def build_path(self, namespace: str, name: str = "") -> str:
        """Build the URL path of one object, or without `name` of all objects of a namespace."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}{'/' if name else ''}{name}"


CONFIGMAPS = Resource("", "v1", "configmaps")
PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
RAYJOBS = Resource("ray.io", "v1", "rayjobs")
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta1", "workloads")  # `KubeApi.get_groups` gives the cluster's version


class KubeApi:
    """The API server of one target. Every method raises KubeError where a request fails."""

    def __init__(self, target: KubeTarget) -> None:
        """Read the kubeconfig, and send nothing. Raises KubeError if it is missing, or has no such context."""
        self.target = target
        context = _read_context(target)
        self.namespace = target.namespace or str(context["context"].get("namespace") or "default")
        settings = client.Configuration()
        settings.retries = urllib3.Retry(total=2, backoff_factor=0.2, redirect=0)
        _silence_libraries()
        try:
            self.client = config.new_client_from_config(  # type: ignore[no-untyped-call]
                get_kubeconfig(), context=target.context, persist_config=False, client_configuration=settings
            )
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise KubeError(
                f"{get_kubeconfig()}: context {target.context} cannot be used: {error}; `kubectl --context "
                f"{target.context} get pods` should work first"
            ) from None
        self.server = str(settings.host)

    def get_groups(self) -> dict[str, str]:
        """Return the API groups beyond the core, each with the version that the server prefers."""
        body = self.request_json("GET", "/apis", request=ApiRequest("get", "the list of API groups"))
        return {group["name"]: group["preferredVersion"]["version"] for group in body["groups"]}

    def get_version(self) -> str:
        """Return the server's version: v1.33.2."""
        return str(self.request_json("GET", "/version", request=ApiRequest("get", "the version"))["gitVersion"])

    def has_namespace(self) -> bool | None:
        """Return whether the namespace exists; None if we may not read it."""
        status = self.send("GET", f"/api/v1/namespaces/{self.namespace}").status
        return {200: True, 404: False}.get(status)

    def get(self, resource: Resource, name: str) -> dict[str, Any] | None:
        """Return an object; None if there is none of that name."""
        response = self.send("GET", resource.build_path(self.namespace, name))
        if response.status == 404 and "NotFound" in response.text:
            return None
        return json.loads(self._check(response, ApiRequest("get", resource.full_name, name)))

    def list(self, resource: Resource, *, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        """Return the objects of the namespace that match a label selector and a field selector."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        response = self.send("GET", resource.build_path(self.namespace), query=query)
        items: list[dict[str, Any]] = json.loads(self._check(response, ApiRequest("list", resource.full_name)))["items"]
        return items

    def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
        """Create an object and return it as the server stored it. Fields that the schema lacks are refused.

        A dry run passes validation and admission, and stores nothing. Raises ConflictError if there is one of that name.
        """
        query = {"fieldValidation": "Strict", "fieldManager": "facscale", "dryRun": "All" if dry_run else ""}
        response = self.send("POST", resource.build_path(self.namespace), query=query, body=body)
        request = ApiRequest("create", resource.full_name, body["metadata"]["name"])
        return json.loads(self._check(response, request))

    def delete(self, resource: Resource, name: str, *, uid: str) -> None:
        """Delete the object with this uid, if it still exists; the server deletes what it owns in the background.

        A younger object of the same name stays.
        """
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        response = self.send("DELETE", resource.build_path(self.namespace, name), body=body)
        if response.status != 404:
            with contextlib.suppress(ConflictError):
                self._check(response, ApiRequest("delete", resource.full_name, name))

    def read_log(self, pod: str, *, query: Mapping[str, str]) -> str:
        """Return what a container of a pod has printed; "" if it has not started, or is gone."""
        response = self.send("GET", f"{PODS.build_path(self.namespace, pod)}/log", query=query)
        if response.status in {400, 404}:
            return ""
        return self._check(response, ApiRequest("get", "pods/log", pod))

    def request_json(
        self, method: str, path: str, *, request: ApiRequest, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send any other request and return the parsed response. `request` describes it in errors."""
        return json.loads(self._check(self.send(method, path, body=body), request))

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> ApiResponse:
        """Send a request and return the response, whatever its status. Raises UnreachableKubeError if none comes."""
        parameters = [(name, value) for name, value in (query or {}).items() if value]
        headers = {"Accept": "application/json, */*", "Content-Type": "application/json"}
        try:
            _, url, headers, body, _ = self.client.param_serialize(
                method=method,
                resource_path=path,
                query_params=parameters,
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self.client.call_api(method, url, headers, body, _request_timeout=TIMEOUT_S)
            return ApiResponse(response.status, response.read().decode(errors="replace"))
        except (urllib3.exceptions.HTTPError, OSError, client.ApiException) as error:
            raise build_unreachable_error(error, target=self.target, server=self.server) from None

    def _check(self, response: ApiResponse, request: ApiRequest) -> str:
        """Return the text of a successful response."""
        if response.status < 300:
            return response.text
        raise build_error(response, request=request, target=self.target, namespace=self.namespace)


def get_kubeconfig() -> str:
    """Return the path of the kubeconfig, or several separated by colons, as kubectl takes them."""
    paths = (os.environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep)
    return os.pathsep.join(str(Path(path).expanduser()) for path in paths if path)


def _read_context(target: KubeTarget) -> dict[str, Any]:
    """Read the target's context from the kubeconfig. Raises KubeError."""
    try:
        contexts, _ = config.list_kube_config_contexts(get_kubeconfig())  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise KubeError(
            f"{get_kubeconfig()}: no usable kubeconfig: {error}. Get one from the cluster's administrator (for "
            "instance `gcloud container clusters get-credentials`), or set KUBECONFIG; Ray clusters need none: --ray"
        ) from None
    by_name = {str(context["name"]): context for context in contexts}
    if target.context not in by_name:
        names = {*by_name, *(name for name, entry in load_targets().items() if isinstance(entry, KubeTarget))}
        origin = "" if target.name == target.context else f" (the context of {target.name} in your clusters file)"
        suggestion = suggest_nearest(target.context, sorted(names))
        raise KubeError(f'{get_kubeconfig()}: there is no context "{target.context}"{origin}{suggestion}')
    return by_name[target.context]


def _silence_libraries() -> None:
    """Suppress the libraries' warnings about each failed attempt; the last failure becomes an error."""
    for name in ("urllib3.connectionpool", "kubernetes.client.rest"):
        logging.getLogger(name).setLevel(logging.ERROR)
