"""Containers of rendered manifests as processes of this machine: their commands, arguments and environments as they stand."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests import find_object

Doc = dict[str, Any]


def build_environment(docs: list[Doc], container: Doc, others: Mapping[str, str]) -> dict[str, str]:
    """Its variables, with secrets and config maps looked up; `others` are this machine's instead of the cluster's."""
    variables = {}
    for source in container.get("envFrom", []):
        if "secretRef" in source:
            data = find_object(docs, f"Secret/{source['secretRef']['name']}")["data"]
            variables |= {key: base64.b64decode(value).decode() for key, value in data.items()}
        else:
            variables |= find_object(docs, f"ConfigMap/{source['configMapRef']['name']}")["data"]
    for variable in container.get("env", []):
        if "value" in variable:
            variables[variable["name"]] = variable["value"]
        elif "secretKeyRef" in variable["valueFrom"]:
            key = variable["valueFrom"]["secretKeyRef"]
            variables[variable["name"]] = base64.b64decode(
                find_object(docs, f"Secret/{key['name']}")["data"][key["key"]]
            ).decode()
    return variables | dict(others)


def build_command(container: Doc, variables: Mapping[str, str]) -> list[str]:
    """Command and arguments, with $(NAME) filled in as Kubernetes does."""
    words = [*container["command"], *container.get("args", [])]
    return [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], word) for word in words]


def start_container(words: list[str], variables: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process group of its own, beside this Python's programs, which knows nothing of this machine's settings."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    with log.open("ab") as out:
        return subprocess.Popen(
            words,
            env={**kept, **variables, "PATH": path},
            stdout=out,
            stderr=out,
            cwd=log.parent,
            start_new_session=True,
        )
