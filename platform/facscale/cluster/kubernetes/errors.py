"""Errors of clusters, and the translation of an API server's refusals into messages that name the fix."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from facscale.cluster.kubernetes.clusters import KubeTarget
from facscale.errors import UserError

RBAC = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')
ANONYMOUS = "system:anonymous"
RETRYABLE = {429, 500, 502, 503, 504}  # of an API server that is being upgraded, for instance
HINTS = (  # a part of an admission's message, in lower case or not, and what usually helps
    ("PodSecurity", "the namespace asks for a pod security level that the chart's values do not meet"),
    (
        "exceeded quota",
        "the namespace's ResourceQuota is spent: fewer cluster.workers, or wait; facscale list shows jobs",
    ),
    ("kueue", "the queue's rules refuse it: another --queue, or a fixed number in cluster.workers"),
    ("autoscaling", "with Kueue give a fixed number in cluster.workers"),
    ("strict decoding error", "the chart's template and the cluster's KubeRay differ in version: upgrade the CRDs"),
    ("unknown field", "the chart's template and the cluster's KubeRay differ in version: upgrade the CRDs"),
    ("Too long", "shorten the job's name: name: ..."),
)


class KubeError(UserError):
    """A Kubernetes cluster refuses a request, or cannot be used."""


class JobNotFoundError(UserError):
    """The job does not exist, or no longer."""


class ConflictError(KubeError):
    """The object exists already, or is no longer the one that was meant."""


class UnreachableError(UserError):
    """The cluster does not answer; a later attempt may succeed."""


class UnreachableKubeError(KubeError, UnreachableError):
    """The API server does not answer."""


class ApiResponse(NamedTuple):
    """A response of the API server."""

    status: int
    text: str

    @property
    def message(self) -> str:
        """The server's message, or the first 300 characters of what it sent."""
        message = self._parse().get("message")
        return self.text.strip()[:300] if message is None else str(message)

    @property
    def reason(self) -> str:
        """A reason as Kubernetes defines them, for instance AlreadyExists; "" if the server gives none."""
        return str(self._parse().get("reason") or "")

    def _parse(self) -> dict[str, object]:
        try:
            body = json.loads(self.text)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}


class ApiRequest(NamedTuple):
    """A request in the terms of RBAC, for error messages: list rayjobs.ray.io."""

    verb: str
    resource: str
    name: str = ""


def build_unreachable_error(error: Exception, *, target: KubeTarget, server: str) -> UnreachableKubeError:
    """Build the error for an API server at `server` that did not answer."""
    if "certificate" in str(error).lower() or "SSL" in str(error):
        reason, fix = "its certificate is not trusted", "fetch the kubeconfig again: the cluster may have been rebuilt"
    else:
        reason = str(getattr(error, "reason", None) or error).rpartition(": ")[2]  # the rest names urllib3's objects
        fix = "is the VPN on, does the cluster still exist?"
    return UnreachableKubeError(f"{target.name}: the API server {server} cannot be reached ({reason}): {fix}")


def build_error(response: ApiResponse, *, request: ApiRequest, target: KubeTarget, namespace: str) -> KubeError:
    """Build the error for a response whose status is not a success."""
    where = f"{target.name}, namespace {namespace}"
    if response.status == 401 or ANONYMOUS in response.message:
        return KubeError(
            f"{target.name}: the cluster does not know you (401): log in again; `kubectl --context {target.context} "
            "auth whoami` should name you"
        )
    denial = RBAC.search(response.message)
    if response.status == 403 and denial:
        return build_rbac_error(denial, request=request, target=target, namespace=namespace)
    if response.status == 404 and f'namespaces "{namespace}" not found' in response.message:
        return build_namespace_error(target, namespace)
    if response.status == 404 and request.resource.endswith(".ray.io") and not response.reason:
        return build_kuberay_error(target)
    kind, hint = KubeError, ""
    failure = f"{request.verb} {request.resource} {request.name} failed ({response.status})"
    if response.status in RETRYABLE:
        kind = UnreachableKubeError
    elif response.status == 409 and response.reason in {"AlreadyExists", "Conflict"}:
        kind = ConflictError
    elif response.status in {400, 403, 409, 422} and request.verb == "create":
        failure, hint = f"the cluster refuses {request.resource} {request.name}", get_hint(response)
    return kind(f"{where}: {failure}: {response.message}{hint}")


def build_rbac_error(denial: re.Match[str], *, request: ApiRequest, target: KubeTarget, namespace: str) -> KubeError:
    """Build the error for a request that RBAC denies; `denial` is a match of `RBAC`."""
    return KubeError(
        f"{target.name}: {denial['user']} may not {denial['verb']} {request.resource} in the namespace "
        f"{namespace} (403). The chart's role facscale-submitter (RELEASE-submitter) allows what researchers need: ask "
        "the cluster's administrator to add you to the chart's value `researchers`, or name the right namespace in "
        "your clusters file"
    )


def build_namespace_error(target: KubeTarget, namespace: str) -> KubeError:
    """Build the error for a namespace that does not exist."""
    return KubeError(
        f'{target.name}: there is no namespace "{namespace}": write the right one, `{target.name}: {{context: '
        f"{target.context}, namespace: ...}}`, into your clusters file, or have the chart installed there"
    )


def build_kuberay_error(target: KubeTarget) -> KubeError:
    """Build the error for a cluster without the resource RayJob."""
    return KubeError(
        f"{target.name}: the cluster knows no RayJobs (ray.io/v1): the KubeRay operator and its CRDs have to be "
        "installed first (helm/facscale/README.md)"
    )


def build_template_error(target: KubeTarget, namespace: str) -> KubeError:
    """Build the error for a namespace without the chart's template, or without the one that `target` names."""
    missing = (
        f'no ConfigMap "{target.template}"'
        if target.template
        else "no ConfigMap with the label facscale.dev/template=rayjob"
    )
    return KubeError(
        f"{target.name}: the namespace {namespace} has {missing}, from which jobs are made: `helm install facscale "
        f"helm/facscale --namespace {namespace}` creates it; or name another namespace in your clusters file"
    )


def get_hint(response: ApiResponse) -> str:
    """Return what usually helps against a refusal by admission, on a line of its own; "" if that is unknown."""
    message = response.message.lower()
    hint = next((hint for part, hint in HINTS if part.lower() in message), "")
    return f"\n  {hint}" if hint else ""
