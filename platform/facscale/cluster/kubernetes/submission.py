"""A job submission: the resolved spec, its resource request and the digests that identify it."""

from __future__ import annotations

import getpass
import hashlib
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facscale.cluster.kubernetes.code_archive import CodeArchive
from facscale.spec import Document, Job, Pipeline, SpecError, merge, read_spec
from facscale.spec.document import keep_variables
from facscale.spec.portable import dump_spec, encode_canonical, find_variables, make_resolver
from facscale.spec.renamed import restore_old_names

NOT_IN_TRAINING_DIGEST = {
    "cluster",
    "track",
    "evaluate",
    "seeds",
    "sweep",
}  # keys that do not change the first training
MAX_ID_LENGTH = 47  # of a RayJob's name: KubeRay derives longer names from it


@dataclass(frozen=True)
class JobSubmission:
    """A job to be submitted to a cluster."""

    name: str
    spec_text: str  # YAML, as the cluster reads it: overrides applied, variables unresolved
    document: Document  # the same, parsed
    command: str  # the arguments of `facscale submit`: file, overrides, code
    code: CodeArchive | None = None  # uploaded together with the spec

    @property
    def digest(self) -> str:
        """SHA-256 of spec and code, 64 hexadecimal digits: equal for the same job with the same code."""
        code = self.code.digest if self.code else ""
        return hashlib.sha256(encode_canonical(restore_old_names(self.document.data)) + code.encode()).hexdigest()

    @property
    def training_digest(self) -> str:
        """16 digits of what decides where checkpoints go: two jobs that share it must not run at the same time."""
        data = restore_old_names(self.document.data)
        relevant = {key: value for key, value in data.items() if key not in NOT_IN_TRAINING_DIGEST}
        return hashlib.sha256(encode_canonical(relevant)).hexdigest()[:16]

    @property
    def id(self) -> str:
        """Name of the RayJob, and of the submission to a Ray cluster: a DNS label of at most 47 characters."""
        label = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        label = label if label[:1].isalpha() else f"job-{label}".strip("-")
        return f"{label[: MAX_ID_LENGTH - 9].rstrip('-')}-{self.digest[:8]}"


@dataclass(frozen=True)
class ResourceRequest:
    """The workers that a job asks of a cluster."""

    min_workers: int
    max_workers: int
    gpus_per_worker: float
    cpus_per_worker: float

    @property
    def worker_range(self) -> str:
        """The number of workers as text: "4", or "2-8"."""
        fixed = self.min_workers == self.max_workers
        return f"{self.min_workers}" if fixed else f"{self.min_workers}-{self.max_workers}"


def build_submission(spec: Path, overrides: Sequence[str], *, code: CodeArchive | None = None) -> JobSubmission:
    """Build the submission of a spec file with its overrides. Raises SpecError, also if the spec holds a secret."""
    document = read_spec(spec, overrides, resolve=keep_variables)
    name = str(document.data.get("name") or spec.stem)  # on the cluster the file has another name
    document = merge(document, Document({"name": name}, {(): document.source_location(("name",))}))
    arguments = [str(spec), *overrides, *(["--working-dir", str(code.folder)] if code else [])]
    return JobSubmission(name, dump_spec(document), document, shlex.join(arguments), code)


def resolve_spec(
    spec: Path, overrides: Sequence[str], environment: Mapping[str, str] | None, *, source: str = ""
) -> Document:
    """Read a spec as a machine with this environment will. Raises SpecError for a variable that is not set there.

    `source` names the origin of the environment, for the message. With None the environment is unknown, and each
    variable takes its default.
    """
    for name, default, origin in find_variables(read_spec(spec, overrides, resolve=keep_variables)):
        if environment is not None and default is None and name not in environment:
            raise SpecError(
                f"{origin}: ${{{name}}} is not set there: {source} has {', '.join(sorted(environment)) or 'nothing'}; "
                f"write the value instead (key=value on the command line), or ${{{name}:-default}}"
            )
    return read_spec(spec, overrides, resolve=make_resolver(environment or {}))


def compute_request(parsed: Job | Pipeline) -> ResourceRequest:
    """Compute the workers that a job or pipeline needs; a sweep multiplies them by its concurrent trials."""
    if isinstance(parsed, Pipeline):
        return ResourceRequest(parsed.ingest.workers, parsed.ingest.workers, 0, parsed.ingest.cpus_per_worker)
    cluster, trials = parsed.cluster, parsed.sweep.concurrent if parsed.sweep else 1
    max_workers = cluster.max_workers * max(1, trials)
    return ResourceRequest(cluster.min_workers, max_workers, cluster.gpus_per_worker, cluster.cpus_per_worker)


def check_shared_storage(document: Document, environment: Mapping[str, str]) -> None:
    """Raise SpecError if checkpoints or shards would go to a disk that pods do not share and that ends with them.

    `document` is the result of `resolve_spec`. A path below the cluster's own FACSCALE_RUNS passes: its administrator
    has mounted that for all pods.
    """
    shared = environment.get("FACSCALE_RUNS", "")
    if "source" in document.data:
        key, path, fix = "output", str(document.get(("output",))), "${FACSCALE_DATA}/..."
    else:
        path = str(document.get(("cluster", "storage")) or shared or "~/facscale/runs")
        key, fix = "cluster.storage", "leave it out, so that the chart's FACSCALE_RUNS applies"
    is_remote = "://" in path and not path.startswith(("file://", "local://"))
    if not is_remote and not (shared and path.startswith(shared)):
        raise SpecError(
            f"{document.source_location(tuple(key.split('.')))}: {key} is {path}, a folder that each pod would have "
            f"for itself, until it ends: write s3://bucket/..., or {fix}"
        )


def get_submitter() -> str:
    """Return who submits, as user@machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container's user often has no name
        return socket.gethostname()
