"""Which folder a relative path in a spec belongs to."""

from __future__ import annotations

from pathlib import Path

from facscale.compat.ray_jobs import has_working_dir

FIXED = ("/", "~", "${")  # beginnings of paths that do not depend on the current folder; the last is not resolved yet


def anchor_path(url: str) -> str:
    """Return a relative path as one from the current folder, which is not that of a cluster's workers.

    URLs, and paths from the root or a home folder, stay as they are. So do relative paths in a job with a working
    directory: each node has a copy of it, in which the workers run.
    """
    if not url or "://" in url or url.startswith(FIXED) or has_working_dir():
        return url
    return str(Path(url).absolute())
