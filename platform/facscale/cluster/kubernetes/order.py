"""What is to run elsewhere: a spec made whole, with what it needs and what it is recognised by."""

from __future__ import annotations

import getpass
import hashlib
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facscale.cluster.kubernetes.code import Code
from facscale.spec import Document, Job, Pipeline, SpecError, merge, read
from facscale.spec.document import as_written
from facscale.spec.portable import canonical, dump, filled_from, variables

ELSEWHERE_THE_SAME = {"cluster", "track", "evaluate", "seeds", "sweep"}  # of a spec: does not change the first training
LONGEST = 47  # characters of a RayJob's name: KubeRay makes longer names from it


@dataclass(frozen=True)
class Order:
    """One job for a cluster."""

    job: str  # its name
    text: str  # the spec as the cluster reads it, variables left
    document: Document  # the same as data
    words: str  # what the user wrote behind `facscale submit`: file, overrides, code
    code: Code | None = None  # uploaded beside the spec

    @property
    def digest(self) -> str:
        """64 hexadecimal digits over all that runs: the same job on the same code."""
        code = self.code.digest if self.code else ""
        return hashlib.sha256(canonical(self.document.data) + code.encode()).hexdigest()

    @property
    def trains(self) -> str:
        """16 digits over what decides the place of its checkpoints: two that share it must not run at once."""
        kept = {key: part for key, part in self.document.data.items() if key not in ELSEWHERE_THE_SAME}
        return hashlib.sha256(canonical(kept)).hexdigest()[:16]

    @property
    def id(self) -> str:
        """Of the RayJob, and of the submission to a Ray cluster: a DNS label of at most 47 characters."""
        words = re.sub(r"[^a-z0-9]+", "-", self.job.lower()).strip("-")
        words = words if words[:1].isalpha() else f"job-{words}".strip("-")
        return f"{words[: LONGEST - 9].rstrip('-')}-{self.digest[:8]}"


@dataclass(frozen=True)
class Need:
    """What a job asks of a cluster, in workers."""

    fewest: int
    most: int
    gpus: float  # each
    cpus: float  # each


def order(spec: Path, overrides: Sequence[str], *, code: Code | None = None) -> Order:
    """The job of a file, with its overrides baked in. Raises SpecError, also for a secret in it."""
    document = read(spec, overrides, fill=as_written)
    name = str(document.data.get("name") or spec.stem)  # there the file has another one
    document = merge(document, Document({"name": name}, {(): document.origin(("name",))}))
    words = [str(spec), *overrides, *(["--working-dir", str(code.folder)] if code else [])]
    return Order(name, dump(document), document, shlex.join(words), code)


def resolved(
    spec: Path, overrides: Sequence[str], environment: Mapping[str, str] | None, *, told_by: str = ""
) -> Document:
    """The spec as it will be read where these variables are set. Raises SpecError for one that is not.

    `told_by` is where those variables come from, for the message. None: nobody knows them; a default stands for each.
    """
    for name, default, origin in variables(read(spec, overrides, fill=as_written)):
        if environment is not None and default is None and name not in environment:
            raise SpecError(
                f"{origin}: ${{{name}}} is not set there: {told_by} has {', '.join(sorted(environment)) or 'nothing'}; "
                f"write the value instead (key=value on the command line), or ${{{name}:-default}}"
            )
    return read(spec, overrides, fill=filled_from(environment or {}))


def need(parsed: Job | Pipeline) -> Need:
    """Workers and what each takes; a sweep has as many times the workers as it has trials side by side."""
    if isinstance(parsed, Pipeline):
        return Need(parsed.ingest.workers, parsed.ingest.workers, 0, parsed.ingest.cpus_per_worker)
    cluster, side_by_side = parsed.cluster, parsed.sweep.concurrent if parsed.sweep else 1
    most = cluster.most_workers * max(1, side_by_side)
    return Need(cluster.fewest_workers, most, cluster.gpus_per_worker, cluster.cpus_per_worker)


def refuse_unshared(document: Document, environment: Mapping[str, str]) -> None:
    """Raise SpecError where pods would each keep, on a disk that ends with them, what all must share.

    `document` is as `resolved` gives it. What the cluster's own FACSCALE_RUNS says is its owner's choice.
    """
    shared = environment.get("FACSCALE_RUNS", "")
    if "source" in document.data:
        key, place, mend = "output", str(document.at(("output",))), "${FACSCALE_DATA}/..."
    else:
        place = str(document.at(("cluster", "storage")) or shared or "~/facscale/runs")
        key, mend = "cluster.storage", "leave it out so that the chart's FACSCALE_RUNS says it"
    remote = "://" in place and not place.startswith(("file://", "local://"))
    if not remote and not (shared and place.startswith(shared)):
        raise SpecError(
            f"{document.origin(tuple(key.split('.')))}: {key} is {place}, a folder that each pod would have for itself, "
            f"until it ends: write s3://bucket/..., or {mend}"
        )


def who() -> str:
    """Who submits, as others see it: name@machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container's user often has no name
        return socket.gethostname()
