"""Stopping the process groups of servers that facscale starts: Ray and MLflow on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

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
