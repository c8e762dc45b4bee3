"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time


def wait_for(condition, *, limit=60):
    """Return once `condition()` is true; fail after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
