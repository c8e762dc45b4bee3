"""Lines of Ray's that mean nothing here are kept from the user; every other line passes.

Where a setting quietens the source, it is used. The rest is known by its exact text. Ray's C++ core writes to file
descriptor 2 itself, so that a filter has to stand behind it: `grep`, a process of its own, which passes on even the last
words of a process that is killed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

ACTOR = (  # it complains that an actor could not be restarted if nobody held what it was made with; somebody does
    r"^\[[^]]*] core_worker\.cc:[0-9]+: Actor with class name: '{}' and ID: '[0-9a-f]+' has constructor arguments in the "
    r"object store and max_restarts > 0\. If the arguments in the object store go out of scope or are lost, the actor "
    r"restart will fail\. See https://github\.com/ray-project/ray/issues/53727 for more details\.$"
)
MEANINGLESS = (  # for Python and for grep -E; seen with Ray 2.60.0
    ACTOR.format(
        "PreemptionWatcher"
    ),  # Ray Train's own, for nodes that are taken away; its controller holds the arguments
    ACTOR.format(r"MapWorker\(MapBatches\(_Embedder\)\)"),  # ours: evaluate/embed.py holds the encoder to the end
)
OF_SUBMITTING = re.compile(  # what `ray job submit` prints of itself, and no setting is below it
    r"^[0-9 ,:-]+\tINFO (?:"
    r"job_manager\.py:[0-9]+ -- Runtime env is setting up\."  # the agent's first line in the log of every job
    r"|sdk\.py:[0-9]+ -- WebSocket closed for job \w+ with close code 1000"  # 1000: all was said
    r")$"
)
SAID_ONCE = (  # notices that Ray gives once in a process, by its own key: here they are taken as given
    "ray_data_progress_manager_disabled",  # Ray Data tells how to have its bars back; ours count frames
)
NAME = "facscale"
PATIENCE_S = 5.0
SH = [
    "sh",
    "-c",
    'trap "" INT TERM HUP; exec "$@"',
    "sh",
]  # who ends a job ends the filter with it: it reads to the end
MEANS_NOTHING = re.compile("|".join(MEANINGLESS))


def quieten() -> None:
    """Ask Ray for less, and drop lines of workers that mean nothing before they are printed. To be called before ray.init."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as printed
    from ray.util.debug import log_once

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for key in SAID_ONCE:
        log_once(key)
    if NAME not in dict(printed.handlers):
        printed.add_handler(NAME, _drop)  # handlers are called in order, and Ray's own one comes with ray.init


def _drop(batch: dict[str, Any]) -> None:
    batch["lines"] = [line for line in batch.get("lines", []) if not MEANS_NOTHING.search(line)]


@contextmanager
def filtered_stderr() -> Iterator[None]:
    """While it lasts, what is written to file descriptor 2 goes through the filter; Python's own sys.stderr does not."""
    grep = shutil.which("grep")
    if grep is None or shutil.which("sh") is None:
        yield
        return
    sys.stderr.flush()
    before, real = sys.stderr, os.dup(2)
    words = [*SH, grep, "-a", "-v", "-E", "--line-buffered", *(word for one in MEANINGLESS for word in ("-e", one))]
    passing = subprocess.Popen(  # noqa: S603 - our own words
        words, stdin=subprocess.PIPE, stdout=real, env={**os.environ, "LC_ALL": "C"}, start_new_session=True
    )
    assert passing.stdin is not None
    os.dup2(passing.stdin.fileno(), 2)
    passing.stdin.close()
    if before is sys.__stderr__ and before is not None:  # bars ask it whether it is a terminal
        sys.stderr = os.fdopen(os.dup(real), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(real, 2)
        os.close(real)
        with suppress(subprocess.TimeoutExpired):  # a process that we started still has it
            passing.wait(PATIENCE_S)
