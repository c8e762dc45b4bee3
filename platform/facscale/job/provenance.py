"""Who runs a job, and with which code."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path


def get_user() -> str:
    """Whose job it is; a container's user often has no name to look up."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def get_commit() -> str:
    """Of the code that runs: an image says it, a checkout knows it."""
    if commit := os.environ.get("FACSCALE_COMMIT"):
        return commit
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:  # there is no git
        return "unknown"
    return done.stdout.strip() or "unknown"
