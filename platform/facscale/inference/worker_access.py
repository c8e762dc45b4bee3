"""Whether the workers of a Ray cluster reach the stores that this process reaches."""

from __future__ import annotations

import os
from collections.abc import Sequence

from facscale.cluster.ray import run_on_worker
from facscale.data.storage import is_remote, try_access
from facscale.spec import SpecError

VARIABLES = ("AWS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")  # beginnings of their names, in capitals
MAX_TRIED = 8  # stores; one for each bucket


def check_worker_access(urls: Sequence[str]) -> None:
    """Raise SpecError for an object store that a worker of the joined cluster cannot read.

    A cluster that was started without the variables of this process asks another store, or without a key: minutes
    later, and in each worker.
    """
    buckets = {"/".join(url.split("/")[:3]): url for url in reversed(urls) if is_remote(url)}
    for url in list(buckets.values())[:MAX_TRIED]:
        if reason := run_on_worker(try_access, url):
            given = sorted(name for name in os.environ if name.upper().startswith(VARIABLES))
            here = (
                f"this process has {', '.join(given)}"
                if given
                else "this process has none of the AWS_ variables either"
            )
            raise SpecError(
                f"a worker of the Ray cluster cannot read {url}: {reason}. Workers have the environment with which Ray was "
                f"started on their node, and {here}: start Ray with the same ones"
            )
