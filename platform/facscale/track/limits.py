"""MLflow's limits on a request, a value and a name."""

from __future__ import annotations

import re

METRICS_PER_REQUEST, PARAMS_PER_REQUEST, TAGS_PER_REQUEST = 1000, 100, 100
MAX_VALUE_LENGTH = 5000  # characters of a parameter or tag; MLflow rejects more than 6000 and 8000
DIGEST_LENGTH = 36  # characters of a data set's fingerprint


def sanitize_name(text: str) -> str:
    """Make `text` a valid name of a metric, parameter or tag: letters, digits, _ - . : / and blanks."""
    return re.sub(r"[^\w.\-:/ ]", "_", text)[:250]


def sanitize_model_name(text: str) -> str:
    """Make `text` a valid name of a registered model or alias, which stand in URIs: letters, digits, _ and -."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:100].strip("-") or "model"
