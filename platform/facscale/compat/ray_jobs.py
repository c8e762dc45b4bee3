"""What Ray Jobs tells the process that it starts, by an undocumented variable; tried with Ray 2.60.0. Imports no Ray."""

from __future__ import annotations

import json
import os

CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in the processes that `ray job submit` starts, and in no other


def is_submitted() -> bool:
    """Whether this process is the driver of a job that Ray Jobs runs."""
    return CONFIG in os.environ


def has_working_dir() -> bool:
    """Whether Ray Jobs has unpacked a working directory for this job: a copy on each node, in which its processes run."""
    config = json.loads(os.environ.get(CONFIG, "{}"))
    return bool((config.get("runtime_env") or {}).get("working_dir"))
