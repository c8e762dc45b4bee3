"""What `ray job submit --working-dir` would carry."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from facscale.doctor.examination import check
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.patient import Patient

NAMED = 3  # of the largest files
SLOW = 0.2  # of the limit


@check("working-dir", rank=25, limit_s=60)
def upload(patient: Patient) -> Iterator[Finding]:
    """Look at what lies in this folder: du -a . | sort -n."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    told = weighed(patient.folder or Path(), limit=GCS_STORAGE_MAX_SIZE)
    if patient.folder is None and told.state == "problem":  # nobody has said that it is to go along
        told = replace(told, state="warning")
    yield told


@check("working-dir", rank=55, place="kube", limit_s=60)
def packed(patient: Patient) -> Iterator[Finding]:
    """Look at what lies in the folder."""
    from facscale.cluster.kubernetes.code import LIMIT, pack

    if patient.folder is not None:
        size = len(pack(patient.folder).zipped)
        yield ok(f"--working-dir {patient.folder} has {size / 1e6:.2f} MB when zipped, and may have {LIMIT / 1e6:.0f}")


def weighed(folder: Path, *, limit: int) -> Finding:
    """Against the limit of Ray's, in bytes."""
    sizes = carried(folder)
    total = sum(sizes.values())
    largest = sorted(sizes, key=lambda path: -sizes[path])[:NAMED]
    names = ", ".join(f"{path.relative_to(folder.absolute())} ({sizes[path] / 2**20:,.1f} MiB)" for path in largest)
    said = f"--working-dir {folder} carries {len(sizes):,} files, {total / 2**20:,.1f} MiB"
    mend = f"name what need not travel in .gitignore or .rayignore; the largest: {names}"
    if total >= limit:
        return problem(f"{said}: more than Ray takes ({limit / 2**20:,.0f} MiB)", mend)
    if total >= SLOW * limit:
        return warning(f"{said}: each job uploads that (Ray takes {limit / 2**20:,.0f})", mend)
    return ok(f"{said} (Ray takes {limit / 2**20:,.0f})")


def carried(folder: Path) -> dict[Path, int]:
    """The bytes of every file that Ray would pack, which it does without compression, by Ray's own rules of what to leave out."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[Path, int] = {}
    root = folder.absolute()

    def weigh(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    excludes = [_get_excludes(root, get_runtime_env_default_excludes())]
    _dir_travel(root, excludes, weigh, include_gitignore=True, logger=logging.getLogger(__name__))
    return sizes
