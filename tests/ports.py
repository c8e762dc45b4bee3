"""Ports of this machine for a test's own servers."""

from __future__ import annotations

import random
import socket

# Below 32,768, where the system takes ports for outgoing connections, and beside those of tests/s3.py and Ray's workers.
QUIET = range(23_000, 30_000)


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_run(length: int) -> int:
    """The first of so many ports in a row that are free now, and that the system gives to no outgoing connection."""
    begins = range(QUIET.start, QUIET.stop - length)
    return next(
        begin for begin in random.sample(begins, len(begins)) if all(map(_is_free, range(begin, begin + length)))
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))  # on every address: parts of Ray listen there
        except OSError:
            return False
    return True
