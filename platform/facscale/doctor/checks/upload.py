"""What `ray job submit --working-dir` would carry."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from facscale.doctor.examine import check
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.patient import Patient

NAMED = 3  # of the largest files


@check("working-dir", rank=25, limit_s=60)
def upload(patient: Patient) -> Iterator[Finding]:
    """Look at what lies in this folder: du -a . | sort -n."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, PACKAGE_SIZE_WARNING

    yield from weighed(Path(patient.folder), limit=GCS_STORAGE_MAX_SIZE, heavy=PACKAGE_SIZE_WARNING)


def weighed(folder: Path, *, limit: int, heavy: int) -> Iterator[Finding]:
    """Against the limit of Ray's, in bytes, and the weight from which an upload is slow."""
    sizes = carried(folder)
    total = sum(sizes.values())
    largest = sorted(sizes, key=lambda path: -sizes[path])[:NAMED]
    names = ", ".join(f"{path.relative_to(folder.absolute())} ({sizes[path] / 2**20:,.1f} MiB)" for path in largest)
    said = f"--working-dir {folder} carries {len(sizes):,} files, {total / 2**20:,.1f} MiB"
    mend = f"name what need not travel in .gitignore or .rayignore; the largest: {names}"
    if total >= limit:
        yield problem(f"{said}: more than Ray takes ({limit / 2**20:,.0f} MiB)", mend)
    elif total >= heavy:
        yield warning(f"{said}, near Ray's limit of {limit / 2**20:,.0f} MiB", mend)
    else:
        yield ok(f"{said} (Ray takes {limit / 2**20:,.0f})" + (f"; the largest: {names}" if names else ""))


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
