"""YAML 1.1 for everything that is not a spec: what Kubernetes reads and writes, and dumps for people.

Kubernetes reads YAML 1.1, where `yes` is a boolean and `0644` an octal number. Specs are YAML 1.2 and are read by
`spec.document`, which keeps the line of every value.
"""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

__all__ = ["YAMLError", "dump", "load"]

DIRECTIVE = "%YAML 1.1\n---\n"


def dump(data: Any) -> str:
    """Write plain values in block style, keys in their order; texts that YAML 1.1 would misread are quoted."""
    text = io.StringIO()
    yaml = _yaml()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(data, text)
    return text.getvalue().removeprefix(DIRECTIVE)


def load(text: str) -> Any:
    """Read plain values; tags that construct objects are refused. Raises YAMLError."""
    return _yaml().load(text)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = "1.1"
    return yaml
