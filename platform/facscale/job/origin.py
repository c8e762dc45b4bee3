"""Who runs a job, and which code."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path


def user() -> str:
    """Whose job it is; a container's user often has no name to look up."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def commit() -> str:
    """Of the code that runs, where it is a checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git is in the path
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
