"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time


def wait_for(condition, *, limit=60):
    """What `condition()` returns once that is true; fails after `limit` seconds."""
    end = time.monotonic() + limit
    while not (seen := condition()):
        assert time.monotonic() < end, f"not in {limit} s"
        time.sleep(0.05)
    return seen
