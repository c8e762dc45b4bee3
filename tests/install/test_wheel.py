"""A wheel works as a checkout does: built, installed into an environment of its own, and used from an empty folder.

A minute: building twice, and a demo that gets as far as its first rendered clips, with Ray and MLflow of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT
from facscale.ingest.detectors import mediapipe
from hosts import Network, missing

pytestmark = pytest.mark.slow("builds, installs, and begins a demo with Ray and MLflow of its own", minutes=2)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FROM = ["pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]]
YAML = {kind: {path.name for path in (ROOT / kind).iterdir()} for kind in ("jobs", "pipelines")}
FIRST_CLIPS_S = 1800.0  # a minute where nothing else runs
PLAIN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def build(source, into):
    """The wheel of a folder, or of an sdist. What builds is in the lock, so that nothing is fetched."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", into, source], check=True, env=PLAIN)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What a wheel is made of, without what work leaves in a checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in FROM:
        shutil.copy(ROOT / name, folder)
    for name in ("platform", "jobs", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of an environment with the wheel in it; the libraries that it needs are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(command, check=True, env=PLAIN)
    libraries = sysconfig.get_path("purelib")
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(site) / "libraries.pth").write_text(f"{libraries}\n")  # its own .pth, with the checkout, is not read
    for program in ("ray", "mlflow"):
        _, _, rest = (Path(sys.executable).parent / program).read_text().partition("\n")
        (folder / "bin" / program).write_text(f"#!{python}\n{rest}")
        (folder / "bin" / program).chmod(0o755)
    return folder / "bin"


def run(installed, folder, *words, status=0, **variables):
    environment = {**PLAIN, "PATH": f"{installed}:{os.environ['PATH']}", "COLUMNS": "200", **variables}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_holds_code_jobs_pipelines_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT / "platform")) for path in (ROOT / "platform").rglob("*.py")}
    yaml = {f"facscale/shipped/{kind}/{name}" for kind, files in YAML.items() for name in files}
    weights = {f"facscale/ingest/detectors/weights/{name}" for name in mediapipe.SHA256}
    assert code | yaml | weights | {"facscale/py.typed", "facscale/report/published/index.toml"} <= names
    assert {f"facscale-{read_version()}.dist-info/licenses/{name}" for name in PROJECT["license-files"]} <= names


def test_the_source_distribution_makes_the_same_wheel(source, wheel, tmp_path):
    command = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", command, tmp_path], cwd=source, check=True, env=PLAIN, capture_output=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as members:
        assert [member.name for member in members if member.issym()] == []
    again = build(packed, tmp_path / "again")
    contents = [{each.filename: each.CRC for each in zipfile.ZipFile(path).infolist()} for path in (wheel, again)]
    for content in contents:
        content.pop(f"facscale-{read_version()}.dist-info/RECORD")
    assert contents[0] == contents[1]


def test_it_runs_from_an_empty_folder_without_the_checkout(installed, tmp_path):
    assert read_version() in run(installed, tmp_path, "facscale", "--version")
    place = run(installed, tmp_path, "python", "-c", "import facscale; print(facscale.__file__)")
    assert Path(place.strip()).is_relative_to(installed.parent)
    assert "jobs/clp.yaml" in run(installed, tmp_path, "facscale", "methods", "clp")
    assert list(tmp_path.iterdir()) == []


def test_jobs_and_pipelines_come_out_and_are_checked(installed, tmp_path):
    run(installed, tmp_path, "facscale", "init", "faces")
    folder = tmp_path / "faces"
    assert {kind: {path.name for path in (folder / kind).iterdir()} for kind in YAML} == YAML
    data = {"FACSCALE_DATA": str(tmp_path / "data"), "FACSCALE_RUNS": str(tmp_path / "runs")}
    answer = run(installed, folder, "facscale", "check", "jobs/demo.yaml", status=2, **data)
    assert f"error: {tmp_path}/data/synthetic" in answer  # what is missing is the data alone
    assert "facscale run pipelines/" in run(installed, folder, "facscale", "init", "../more")


@pytest.mark.skipif(bool(missing()), reason=missing() or "hosts can be made")
def test_the_demo_renders_and_stops(installed):
    """On a host of its own, for its ports are fixed, and with a folder of Ray's of its own."""
    with Network("demo") as network:
        host, folder = network["demo"], network["demo"].folder
        variables = {**PLAIN, "PATH": f"{installed}:{os.environ['PATH']}", "RAY_TMPDIR": str(network.own)}
        inside = f"cd {network.own} && exec facscale demo"
        demo = host.start("sh", "-c", inside, variables=variables, log=folder / "demo.log")
        clips = folder / "demo" / "data" / "raw" / "synthetic"
        end = time.monotonic() + FIRST_CLIPS_S
        while not list(clips.rglob("*.mp4")):
            assert demo.poll() is None, (folder / "demo.log").read_text()[-5000:]
            assert time.monotonic() < end, (folder / "demo.log").read_text()[-5000:]
            time.sleep(0.2)
        demo.terminate()
        demo.wait()
        answer = host.run("sh", "-c", f"{inside} --stop", variables=variables, timeout=900)
        assert "stopped" in answer
        assert not (folder / "demo" / "ray.pid").exists()


def read_version():
    import facscale

    return facscale.__version__
