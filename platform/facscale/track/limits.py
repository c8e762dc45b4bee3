"""What MLflow takes: in one request, in one value, in one name."""

from __future__ import annotations

import re

METRICS, PARAMS, TAGS = 1000, 100, 100  # of one request
LONGEST = 5000  # characters of a parameter or tag; MLflow refuses more than 6000 and 8000
DIGEST = 36  # characters of a data set's fingerprint


def mlflow_name(text: str) -> str:
    """Names of metrics, parameters and tags hold letters, digits and _ - . : / and blanks."""
    return re.sub(r"[^\w.\-:/ ]", "_", text)[:250]


def model_name(text: str) -> str:
    """Names of registered models and their aliases, which stand in URIs: letters, digits, _ and -."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:100].strip("-") or "model"
