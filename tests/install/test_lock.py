"""On every Python that we name, PyPI has what the lock says, as wheels, and the project needs nothing beside it.

It asks PyPI, as `make` does: half a minute, most of it for the two packages that are published as source alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.markers import default_environment

from conftest import ROOT
from lock import read_entries, read_pins

pytestmark = pytest.mark.slow("asks PyPI for 200 packages on three Pythons")
PYTHONS = ("3.11", "3.12", "3.13")
PLAIN = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONSTRAINT": ""}
# Published as source alone. Neither compiles anything when it is installed, which `test_sources_…` holds them to.
SOURCES = {
    "deepspeed": "compiles its operators when they are first used",
    "face-recognition-models": "weights, 100 MB",
}


@pytest.fixture(scope="module")
def constraints(tmp_path_factory):
    """The versions of the lock without its hashes, with which pip would resolve nothing."""
    file = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    file.write_text("\n".join(read_entries()))
    return file


def resolve(version, *, constraints, into):
    """What the project and all its extras need on a Python of this version, none of which has to be here; from PyPI alone."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--all-extras"]
    command += ["--python-version", version, "--constraints", constraints, "--format", "pylock.toml"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    done = subprocess.run(
        [*command, ROOT / "pyproject.toml", "--output-file", into], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return tomllib.loads(into.read_text())["packages"]


@pytest.mark.parametrize("version", PYTHONS)
def test_the_lock_is_what_is_resolved_and_all_of_it_are_wheels(constraints, tmp_path, version):
    packages = resolve(version, constraints=constraints, into=tmp_path / "pylock.toml")
    there = default_environment() | {"python_version": version, "python_full_version": f"{version}.0"}
    versions = {package["name"]: package["version"] for package in packages}
    assert versions == read_pins(environment=there)
    assert {package["name"] for package in packages if "wheels" not in package} == SOURCES.keys()
    hashes = {line.partition(" ;")[0]: known for line, known in read_entries().items()}
    for package in packages:
        known = hashes[f"{package['name']}=={package['version']}"]
        for file in package.get("wheels") or [package["sdist"]]:
            assert not file["url"].startswith("file:")
            assert f"--hash=sha256:{file['hashes']['sha256']}" in known, f"the lock has no hash of {file['url']}"


@pytest.mark.parametrize("name", SOURCES)
def test_sources_become_wheels_without_a_compiler(constraints, tmp_path, name):
    for program in ("bash", "sh"):  # DeepSpeed asks for its commit in a shell
        (tmp_path / program).symlink_to(shutil.which(program))
    environment = {**os.environ, **PLAIN, "PATH": str(tmp_path), "CC": "/bin/false", "CXX": "/bin/false"}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--wheel-dir", tmp_path / "wheels", "--constraint", constraints, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name.endswith("-none-any.whl")
