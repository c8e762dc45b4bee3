"""What the API server refuses, in words that say what to do."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from facscale.cluster.kubernetes.clusters import KubePlace
from facscale.errors import UserError

RBAC = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')
ANONYMOUS = "system:anonymous"
BUSY = {429, 500, 502, 503, 504}  # an API server that is upgraded, say: perhaps soon
HINTS = (  # of refusals by admission, which each cluster has its own
    ("PodSecurity", "the namespace asks for a pod security level that the chart's values do not meet"),
    ("exceeded quota", "the namespace's ResourceQuota is spent: fewer cluster.workers, or wait; facscale list shows jobs"),
    ("kueue", "the queue's rules refuse it: another --queue, or a fixed number in cluster.workers"),
    ("autoscaling", "with Kueue give a fixed number in cluster.workers"),
    ("strict decoding error", "the chart's template and the cluster's KubeRay differ in version: upgrade the CRDs"),
    ("unknown field", "the chart's template and the cluster's KubeRay differ in version: upgrade the CRDs"),
    ("Too long", "name the job shorter: name: ..."),
)  # fmt: skip


class KubeError(UserError):
    """A Kubernetes cluster does not do what was asked of it."""


class GoneError(UserError):
    """There is no such job, any more."""


class UnreachableError(UserError):
    """No answer: perhaps soon."""


class SilentError(KubeError, UnreachableError):
    """No answer from an API server."""


class Answer(NamedTuple):
    """Of the API server."""

    status: int
    text: str

    @property
    def message(self) -> str:
        """The server's own words."""
        try:
            said = json.loads(self.text)
        except ValueError:
            said = None
        return str(said["message"]) if isinstance(said, dict) and "message" in said else self.text.strip()[:300]

    @property
    def reason(self) -> str:
        """One of Kubernetes' reasons, as in AlreadyExists; "" where the server gives none."""
        try:
            said = json.loads(self.text)
        except ValueError:
            return ""
        return str(said.get("reason") or "") if isinstance(said, dict) else ""


class Question(NamedTuple):
    """What was asked for: list rayjobs.ray.io."""

    verb: str
    resource: str
    name: str = ""


def unreachable(error: Exception, *, place: KubePlace, server: str) -> SilentError:
    """No answer at all."""
    if "certificate" in str(error).lower() or "SSL" in str(error):
        why, mend = "its certificate is not trusted", "get the kubeconfig anew: the cluster may have been made again"
    else:
        why = str(getattr(error, "reason", None) or error).rpartition(": ")[2]  # the rest names urllib3's objects
        mend = "is the VPN on, does the cluster still stand?"
    return SilentError(f"{place.name}: the API server {server} cannot be reached ({why}): {mend}")


def explained(answer: Answer, *, asking: Question, place: KubePlace, namespace: str) -> KubeError:
    """An answer that is no success."""
    where = f"{place.name}, namespace {namespace}"
    if answer.status == 401 or ANONYMOUS in answer.message:
        return KubeError(
            f"{place.name}: the cluster does not know you (401): log in again; `kubectl --context {place.context} auth "
            "whoami` should name you"
        )
    refused = RBAC.search(answer.message)
    if answer.status == 403 and refused:
        return forbidden(refused, asking=asking, place=place, namespace=namespace)
    if answer.status == 404 and (absent := missing(answer, asking=asking, place=place, namespace=namespace)):
        return absent
    if answer.status in BUSY:
        return SilentError(f"{where}: {asking.verb} {asking.resource} failed ({answer.status}): {answer.message}")
    if answer.status in {400, 403, 409, 422} and asking.verb in {"create", "patch"}:
        return KubeError(
            f"{where}: the cluster refuses {asking.resource} {asking.name}: {answer.message}{hint(answer)}"
        )
    return KubeError(
        f"{where}: {asking.verb} {asking.resource} {asking.name} failed ({answer.status}): {answer.message}"
    )


def missing(answer: Answer, *, asking: Question, place: KubePlace, namespace: str) -> KubeError | None:
    """Whatever the question needs first; None where only the object itself is not there."""
    if f'namespaces "{namespace}" not found' in answer.message:
        return no_namespace(place, namespace)
    return no_kuberay(place) if asking.resource.endswith(".ray.io") and not answer.reason else None


def forbidden(refused: re.Match[str], *, asking: Question, place: KubePlace, namespace: str) -> KubeError:
    """RBAC says no."""
    return KubeError(
        f"{place.name}: {refused['user']} may not {refused['verb']} {asking.resource} in the namespace {namespace} (403). "
        "The chart's role facscale-submitter (RELEASE-submitter) allows what researchers need: ask who runs the cluster "
        f"to name you under the chart's value `researchers`, or name the right namespace in your clusters file"
    )


def no_namespace(place: KubePlace, namespace: str) -> KubeError:
    """Nothing can be made there."""
    return KubeError(
        f'{place.name}: there is no namespace "{namespace}": say the right one, `{place.name}: {{context: {place.context}, '
        "namespace: ...}` in your clusters file, or let the chart be installed there"
    )


def no_kuberay(place: KubePlace) -> KubeError:
    """The kind RayJob is not there."""
    return KubeError(
        f"{place.name}: the cluster knows no RayJobs (ray.io/v1): the KubeRay operator and its CRDs have to be installed "
        "first (helm/facscale/README.md)"
    )


def no_template(place: KubePlace, namespace: str, named: str) -> KubeError:
    """The chart is not there."""
    what = f'no ConfigMap "{named}"' if named else "no ConfigMap with the label facscale.dev/template=rayjob"
    return KubeError(
        f"{place.name}: the namespace {namespace} has {what}, from which jobs are made: `helm install facscale helm/facscale "
        f"--namespace {namespace}` makes it; or name another namespace in your clusters file"
    )


def hint(answer: Answer) -> str:
    """What usually mends it."""
    found = next((mend for word, mend in HINTS if word.lower() in answer.message.lower()), "")
    return f"\n  {found}" if found else ""
