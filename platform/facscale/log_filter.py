"""Removes log lines of Ray that mean nothing to the user; every other line passes.

Where Ray has a setting, it is used. Other lines are matched by their exact text. Ray's C++ core writes to file
descriptor 2 itself, so its filter has to be behind the descriptor: `grep`, in a process of its own, which passes on even
the last lines of a process that is killed.
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

# Ray warns that an actor could not be restarted if the arguments of its constructor were lost; here they are kept.
ACTOR_WARNING = (
    r"^\[[^]]*] core_worker\.cc:[0-9]+: Actor with class name: '{}' and ID: '[0-9a-f]+' has constructor arguments in the "
    r"object store and max_restarts > 0\. If the arguments in the object store go out of scope or are lost, the actor "
    r"restart will fail\. See https://github\.com/ray-project/ray/issues/53727 for more details\.$"
)
NOISE_PATTERNS = (  # for Python and for grep -E; seen with Ray 2.60.0
    # Ray Train's own actor, which watches for node preemption; the controller keeps its arguments.
    ACTOR_WARNING.format("PreemptionWatcher"),
    # Ours; inference/embed.py keeps the encoder to the end.
    ACTOR_WARNING.format(r"MapWorker\(MapBatches\(_Embedder\)\)"),
)
NOISE = re.compile("|".join(NOISE_PATTERNS))
SUBMIT_NOISE = re.compile(  # what `ray job submit` prints about itself; no setting turns it off
    r"^[0-9 ,:-]+\tINFO (?:"
    r"job_manager\.py:[0-9]+ -- Runtime env is setting up\."  # the agent's first line in the log of every job
    r"|sdk\.py:[0-9]+ -- WebSocket closed for job \w+ with close code 1000"  # 1000: the log is complete
    r")$"
)
LOG_ONCE_KEYS = (  # of notices that Ray logs once a process: they are marked as logged already
    "ray_data_progress_manager_disabled",  # how to turn on Ray Data's progress bars; ours count frames
)
HANDLER = "facscale"
EXIT_TIMEOUT_S = 5.0
# The filter ignores the signals that end a job and its processes, and reads to the end of the output.
IGNORE_SIGNALS = ["sh", "-c", 'trap "" INT TERM HUP; exec "$@"', "sh"]


def suppress_ray_notices() -> None:
    """Reduce Ray's logging, and drop noise among the lines that workers send. Call it before ray.init.

    Raises IncompatibleVersionError if this version of Ray has no such hook.
    """
    from ray.util.debug import log_once

    from facscale.compat.ray import add_worker_output_handler

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for key in LOG_ONCE_KEYS:
        log_once(key)
    add_worker_output_handler(HANDLER, _drop_noise)


def _drop_noise(batch: dict[str, Any]) -> None:
    batch["lines"] = [line for line in batch.get("lines", []) if not NOISE.search(line)]


@contextmanager
def filter_stderr() -> Iterator[None]:
    """Send what is written to file descriptor 2 in this context through the filter; Python's own sys.stderr is not."""
    grep = shutil.which("grep")
    if grep is None or shutil.which("sh") is None:
        yield
        return
    sys.stderr.flush()
    before, real = sys.stderr, os.dup(2)
    patterns = [word for pattern in NOISE_PATTERNS for word in ("-e", pattern)]
    command = [*IGNORE_SIGNALS, grep, "-a", "-v", "-E", "--line-buffered", *patterns]
    process = subprocess.Popen(  # noqa: S603 - a fixed command
        command, stdin=subprocess.PIPE, stdout=real, env={**os.environ, "LC_ALL": "C"}, start_new_session=True
    )
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    if before is sys.__stderr__ and before is not None:  # stays a terminal, for the progress bars
        sys.stderr = os.fdopen(os.dup(real), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(real, 2)
        os.close(real)
        with suppress(subprocess.TimeoutExpired):  # a child process may still hold the descriptor
            process.wait(EXIT_TIMEOUT_S)
