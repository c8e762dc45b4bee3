"""A fake API server: it keeps, validates, refuses and answers as Kubernetes does on the paths that we use."""

from __future__ import annotations

import itertools
import json
import re
import threading
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

OBJECTS = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?P<log>/log)?$"
)
TOKEN = "let-me-in"
ROLE = {  # what the chart's role for researchers allows
    "rayjobs": "create get list watch delete",
    "configmaps": "get list create",
    "pods": "get list watch",
    "log": "get",
    "events": "get list watch",
    "workloads": "get list watch",
}


class Refusal(Exception):  # noqa: N818
    """A response whose status is not a success."""

    def __init__(self, status, message, reason=""):
        super().__init__(message)
        self.status, self.message, self.reason = status, message, reason


class FakeApiServer:
    """Serves in a `with` block; tests read and write `objects`, `logs`, and what it refuses."""

    def __init__(self, namespace="faces"):
        self.namespace = namespace
        self.objects = {}  # (plural, name) -> object
        self.logs = {}  # pod -> lines of (stamp, text)
        self.groups = {"ray.io": "v1"}
        self.forbidden = set()  # (verb, plural)
        self.admission = []  # called with plural and object; raise Refusal
        self.on_request = []  # called with verb, plural and name before each answer
        self.changes = []  # (verb, plural, name, whether it was a dry run)
        self.finalizers = set()  # kinds whose objects stay, marked as deleted, until `finalize`
        self.lock = threading.RLock()  # requests of several clients change the objects one after the other
        self._clock = itertools.count()

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"api": self}))
        self._server.handle_error = lambda *_: None  # a test breaks the connection
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, *, context="gke-munich", token=TOKEN):
        """Return the text of a kubeconfig that leads to this server."""
        parts = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u", "namespace": self.namespace}}],
        }
        return json.dumps(parts)

    def add(self, plural, body):
        """Add an object, as if another client had created it."""
        metadata = body.setdefault("metadata", {})
        metadata.setdefault("uid", str(uuid.uuid4()))
        created = datetime.now(UTC) + timedelta(milliseconds=next(self._clock))
        metadata.setdefault("creationTimestamp", created.isoformat())
        self.objects[plural, metadata["name"]] = body
        return body

    def get_only(self, plural):
        """Return the only object of a kind."""
        (body,) = (body for (kind, _), body in self.objects.items() if kind == plural)
        return body

    def finalize(self, plural, name):
        """Remove an object that is marked as deleted, as its controller does at last."""
        with self.lock:
            self._remove(plural, name)

    def list_changes(self, verb="create"):
        """List the kinds of the objects that were changed by a verb, in order, without dry runs."""
        return [plural for changed, plural, _, dry in self.changes if changed == verb and not dry]

    def answer(self, method, url, headers, body):
        """Return the text of a successful response. Raises Refusal."""
        path, query = urlsplit(url).path, {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized", "Unauthorized")
        if path == "/apis":
            groups = [{"name": name, "preferredVersion": {"version": version}} for name, version in self.groups.items()]
            return json.dumps({"kind": "APIGroupList", "groups": groups})
        match = OBJECTS.fullmatch(path)
        if match is None:  # among others a namespace itself, which the role does not allow
            self._refuse_by_role("get", "namespaces")
        if match["group"] and match["group"] not in self.groups:
            raise Refusal(404, None)
        plural, name = "log" if match["log"] else match["plural"], match["name"] or ""
        verb = {"GET": "get" if name else "list", "POST": "create"}.get(method, method.lower())
        for call in self.on_request:
            call(verb, plural, name)
        self._refuse_by_role(verb, plural)
        if match["namespace"] != self.namespace and verb == "create":
            raise Refusal(404, f'namespaces "{match["namespace"]}" not found', "NotFound")
        here = match["namespace"] == self.namespace
        with self.lock:
            return getattr(self, f"_{'log' if match['log'] else verb}")(plural, name, query, body if here else {}, here)

    def _refuse_by_role(self, verb, plural):
        if (verb, plural) in self.forbidden or verb not in ROLE.get(plural, ""):
            group = "ray.io" if plural == "rayjobs" else ""
            raise Refusal(
                403,
                f'{plural} is forbidden: User "ann" cannot {verb} resource "{plural}" in API group "{group}" in the '
                f'namespace "{self.namespace}"',
                "Forbidden",
            )

    def _find(self, plural, name, here=True):  # noqa: FBT002
        if not here or (plural, name) not in self.objects:
            raise Refusal(404, f'{plural} "{name}" not found', "NotFound")
        return self.objects[plural, name]

    def _get(self, plural, name, _query, _body, here):
        return json.dumps(self._find(plural, name, here))

    def _list(self, plural, _name, query, _body, here):
        labels = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        fields = dict(part.split("=") for part in query.get("fieldSelector", "").split(",") if part)
        items = [body for (kind, _), body in self.objects.items() if kind == plural and here]
        items = [item for item in items if labels.items() <= item["metadata"].get("labels", {}).items()]
        return json.dumps({"items": [item for item in items if fields.items() <= item.items() or not fields]})

    def _create(self, plural, _name, query, body, _here):
        name, dry = body["metadata"]["name"], query.get("dryRun") == "All"
        self.changes.append(("create", plural, name, dry))
        if body["metadata"].get("namespace", self.namespace) != self.namespace:
            raise Refusal(400, "the namespace of the provided object does not match", "BadRequest")
        for check in self.admission:
            check(plural, body)
        if (plural, name) in self.objects:
            raise Refusal(409, f'{plural} "{name}" already exists', "AlreadyExists")
        created = json.loads(json.dumps(body))
        return json.dumps(created if dry else self.add(plural, created))

    def _delete(self, plural, name, _query, body, here):
        self.changes.append(("delete", plural, name, False))
        deleted = self._find(plural, name, here)
        uid = body.get("preconditions", {}).get("uid", deleted["metadata"]["uid"])
        if uid != deleted["metadata"]["uid"]:
            raise Refusal(
                409,
                f'Operation cannot be fulfilled on {plural} "{name}": the UID in the precondition ({uid}) does not match '
                f"the UID in record ({deleted['metadata']['uid']}). The object might have been deleted and then recreated",
                "Conflict",
            )
        if plural in self.finalizers:
            deleted["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
            return "{}"
        self._remove(plural, name)
        return "{}"

    def _remove(self, plural, name):
        deleted = self.objects.pop((plural, name))
        for key, body in list(self.objects.items()):  # garbage is collected
            owners = body["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == deleted["metadata"]["uid"] for owner in owners):
                del self.objects[key]

    def _log(self, _plural, name, query, _body, here):
        pod = self._find("pods", name, here)
        if name not in self.logs:
            raise Refusal(400, f'container in pod "{name}" is waiting to start: ContainerCreating', "BadRequest")
        assert query["container"] == pod["spec"]["containers"][0]["name"]
        since = query.get("sinceTime", "")[:19]
        lines = [(stamp, text) for stamp, text in self.logs[name] if stamp[:19] >= since]
        lines = lines[-int(query.get("tailLines", len(lines) + 1)) :]
        return "".join(f"{stamp} {text}\n" if query.get("timestamps") else f"{text}\n" for stamp, text in lines)


class Handler(BaseHTTPRequestHandler):
    api: FakeApiServer

    def _serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            status, text = 200, self.api.answer(self.command, self.path, self.headers, body)
        except Refusal as refusal:
            failure = {"kind": "Status", "status": "Failure", "message": refusal.message, "reason": refusal.reason}
            status, text = refusal.status, json.dumps(failure) if refusal.message else "404 page not found\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

    def log_message(self, *_):
        pass
