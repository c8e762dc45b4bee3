"""The ends of processes that facscale starts: groups of servers (Ray and MLflow on this machine), and workers of a pool."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, parent_process

POLL_S = 0.05


def stop_process_group(pid: int, *, is_running: Callable[[], bool], wait_s: float) -> None:
    """Send SIGTERM to the process group that `pid` leads and, if it still runs after `wait_s` seconds, SIGKILL.

    `is_running` must recognise the process by more than its pid, which the system may have given to another process.
    """
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not is_running():
            return
        with suppress(ProcessLookupError):  # it may end between the check and the signal
            os.killpg(pid, sent)
        end = time.monotonic() + wait_s
        while is_running() and time.monotonic() < end:
            time.sleep(POLL_S)


def end_with_parent() -> None:
    """Have this process of `multiprocessing` end as soon as the one that started it does, also by kill -9.

    A pool's workers would otherwise wait for work for ever: each holds the pipe open in which the others wait. An
    `initializer` of pools.
    """
    parent = parent_process()
    assert parent is not None, "called in a process that multiprocessing started"

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
