"""The images' recipe: pinned, without root, hosts or secrets, and of the same versions as everything else."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT
from lock import PROJECT, read_entries, read_pins, read_requirements

FOLDER = ROOT / "helm" / "images"
KNOWN = {"ARG", "CMD", "COPY", "ENV", "FROM", "LABEL", "RUN", "USER", "WORKDIR"}


def instructions():
    """(word, rest) of each instruction, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines]


def test_it_is_made_of_known_instructions_and_begins_with_an_argument():
    lines = instructions()
    assert {word for word, _ in lines} <= KNOWN
    assert lines[0] == ("ARG", "BASE=debian:12.11-slim")
    assert [rest for word, rest in lines if word == "FROM"] == ["${BASE} AS build", "${BASE}"]


def test_it_runs_as_a_user_without_rights():
    (user,) = [rest for word, rest in instructions() if word == "USER"]
    assert user == "10001:10001"
    last = [word for word, _ in instructions()]
    assert last.index("USER") > max(number for number, word in enumerate(last) if word == "RUN")


def test_it_names_no_host_and_holds_no_secret():
    for file in FOLDER.iterdir():
        text = file.read_text()
        assert not re.search(r"https?://(?!127\.0\.0\.1)", text), file
        assert not re.search(r"\b[\w-]+\.(io|com|org|net|dev)/", text), file
    for word, rest in instructions():
        if word in ("ARG", "ENV"):
            assert not re.search(r"(?i)password|secret|token|index_url|credential", rest)


def test_pip_takes_only_what_the_locks_pin():
    runs = " ".join(rest for word, rest in instructions() if word == "RUN")
    assert "PIP_NO_CACHE_DIR=1" in " ".join(rest for word, rest in instructions() if word == "ENV")
    installs = re.findall(r"pip install ([^&;]*)", runs)
    (torch,) = [words for words in installs if "--require-hashes" not in words and "--no-index ." not in words]
    assert torch.startswith('--no-deps "torch==$(sed'), "a CPU build, of which no hash is known"
    assert not re.findall(r"pip install (?:-\S+ )*[\w.-]+==", runs)  # versions stand in locks alone
    assert "python verify.py" in runs
    for installed in re.findall(r"apt-get install ([^&]*)", runs):
        assert "--no-install-recommends" in installed


def test_the_image_leaves_out_of_the_lock_what_make_does():
    (cuda,) = re.findall(r"^CUDA := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert f"skip = /{cuda}/" in (FOLDER / "Dockerfile").read_text()


def test_the_images_locks_are_parts_of_the_lock():
    """With the same hashes. A marker may be shorter where fewer packages ask for a package."""
    everything = {
        Requirement(line).name: (Requirement(line).specifier, known) for line, known in read_entries().items()
    }
    beside = {"pip", "wheel"}
    for file in ("helm/images/image.lock", "helm/images/build.lock"):
        for line, known in read_entries(file).items():
            pin = Requirement(line)
            assert pin.name in beside or everything[pin.name] == (pin.specifier, known), f"{file}: make lock"


def test_the_images_lock_has_what_the_project_and_its_servers_need():
    pins = read_pins("helm/images/image.lock")
    needed = {canonicalize_name(requirement.name) for requirement in read_requirements("server", "serve")}
    assert needed <= pins.keys()
    assert not {"pytest", "mkdocs", "torchvision"} & pins.keys()


def test_the_context_holds_the_code_and_no_more():
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert lines[0] == "*"
    copied = {
        part for word, rest in instructions() if word == "COPY" and "--from" not in rest for part in rest.split()[:-1]
    }
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for path in copied:
        assert any(
            path == entry or path.startswith(f"{entry}/") or re.fullmatch(entry.replace("*", ".*"), path)
            for entry in allowed
        )
    assert not {".git", "tests", "demo", ".venv"} & set(allowed)


def test_what_the_build_of_our_wheel_needs_is_copied_before_it():
    stage = instructions()[: [word for word, _ in instructions()].index("FROM", 2)]
    build = next(number for number, (word, rest) in enumerate(stage) if word == "RUN" and "--no-index ." in rest)
    copied = " ".join(rest for word, rest in stage[:build] if word == "COPY").split()
    needed = {"pyproject.toml", "platform", "jobs", "pipelines", PROJECT["readme"], *PROJECT["license-files"]}
    assert needed <= set(copied)


@pytest.mark.parametrize("name", ["requirements.lock", "helm/images/image.lock", "helm/images/build.lock"])
def test_a_lock_is_sorted(name):
    lines = list(read_entries(name))
    assert lines == sorted(lines, key=lambda line: Requirement(line).name.lower())
