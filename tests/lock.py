"""What pyproject.toml asks for, and what a lock has."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def read_requirements(*extras: str) -> list[Requirement]:
    """What the project needs, and what these extras of it add."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    requirements = [Requirement(line) for line in lines]
    return [requirement for requirement in requirements if requirement.name != PROJECT["name"]]


def read_entries(file: str = "requirements.lock") -> dict[str, frozenset[str]]:
    """The hashes of a lock, by requirement with its version and marker."""
    entries = (ROOT / file).read_text().replace(" \\\n", "").splitlines()
    parsed = [
        re.fullmatch(r"([A-Za-z0-9._-]+==[A-Za-z0-9._-]+(?: ; .+?)?)((?: +--hash=sha256:[0-9a-f]{64})+)", e)
        for e in entries
    ]
    assert all(parsed), f"{file} has lines that are no pinned package with its hashes"
    return {match[1]: frozenset(match[2].split()) for match in parsed if match}


def read_pins(file: str = "requirements.lock", *, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions by name that a lock has for `environment` (PEP 508), which is this Python's if it is None."""
    pins = [Requirement(line) for line in read_entries(file)]
    pins = [pin for pin in pins if not pin.marker or pin.marker.evaluate(dict(environment) if environment else None)]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins), "a package stands in the lock twice"
    return versions
