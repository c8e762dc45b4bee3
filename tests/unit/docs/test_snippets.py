"""What the documentation shows works: commands and options exist, keys fit the schema, and short outputs are as shown.

A fence `console` is run, and its output compared; of a fence `sh`, each command of facscale is parsed; a fence `yaml` that is a
job is validated; files that a fence has a title for are written, and used.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from conftest import ROOT
from doc_hooks import load_hook
from facscale.cli import demo, main
from facscale.methods import configure
from facscale.shipped import locate_shipped
from facscale.spec import parse, read_spec
from facscale.spec.document import keep_variables
from facscale.spec.pipelines import Pipeline

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
FACSCALE = re.compile(r"^(?:\$ )?(?:ray job submit .*-- |facscale )")


class Block(NamedTuple):
    page: str
    language: str
    title: str  # of the file that the block is
    text: str


def read_blocks():
    """Every fence, and indented code without a fence as `sh`."""
    for path in PAGES:
        page, text = str(path.relative_to(ROOT)), path.read_text()
        for indent, language, options, body in FENCE.findall(text):
            title = re.search(r'title="([^"]+)"', options)
            lines = [line.removeprefix(indent) for line in body.splitlines()]
            yield Block(page, language, title[1] if title else "", "\n".join(lines))
        rest = FENCE.sub("", text)
        for body in re.findall(r"(?:^ {4}.*\n)+", rest, re.MULTILINE):
            yield Block(page, "sh", "", body)


BLOCKS = list(read_blocks())


def list_commands():
    """Commands of facscale in what a shell would run, without comments; `…` stands for what is left out."""
    for block in BLOCKS:
        if block.language in ("sh", "bash", "console"):
            for line in re.sub(r"\\\n", " ", block.text).splitlines():
                for part in line.strip().removeprefix("$ ").split(";"):
                    words = re.sub(r"^\./(?=jobs/)", "facscale run ", part.strip())
                    words = re.sub(r"^ray job submit .*?-- (?=[\w/]+\.yaml)", "facscale run ", words)
                    if words.startswith("facscale ") and "…" not in words and "|" not in words:
                        yield pytest.param(words, id=f"{block.page}: {words}"[:90])


def find_command(words):
    """The command of a line, with its own arguments."""
    command, context = main, click.Context(main)
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
        context = click.Context(command)
    return command, context, words


@pytest.mark.parametrize("line", list_commands())
def test_commands_and_their_options_exist(line):
    command, context, words = find_command(shlex.split(line, comments=True)[1:])
    words = [word for word in words if word not in (">", ">>")]
    assert not isinstance(command, click.Group) or {"--help", "--version"} & {*words} or command.name == "data", line
    if not isinstance(command, click.Group):
        command.make_parser(context).parse_args(words)


def list_specs():
    """Job or pipeline of facscale and overrides, of each command that has one; not of those whose error is shown."""
    for case in list_commands():
        command, _, words = find_command(shlex.split(case.values[0], comments=True)[1:])
        specs = [word for word in words if word.endswith(".yaml") and word.startswith(("jobs/", "pipelines/"))]
        overrides = [word for word in words if re.match(r"[a-z_.]+=", word)]
        is_error = {"method.margn=0.05", "cluster.patience=60"} & {*words}
        if specs and command.name in ("run", "check", "rehearse", "submit") and not is_error:
            yield pytest.param(specs[0], overrides, id=case.id)


@pytest.mark.parametrize(("spec", "overrides"), list_specs())
def test_specs_in_commands_exist_and_their_overrides_fit_the_schema(spec, overrides):
    document = read_spec(ROOT / spec, overrides, resolve=keep_variables)
    parse(document, Pipeline) if "source" in document.data else configure(document)


JOBS = [  # that of the tutorial about methods needs the tutorial's package: below
    block
    for block in BLOCKS
    if block.language == "yaml"
    and re.search(r"^(method|extends):", block.text, re.MULTILINE)
    and "frame-order" not in block.text
]


@pytest.mark.parametrize("block", JOBS, ids=lambda block: block.page)
def test_whole_jobs_are_valid(block, tmp_path):
    path = tmp_path / "job.yaml"
    (tmp_path / "jobs").symlink_to(locate_shipped("jobs"))
    path.write_text(block.text)
    configure(read_spec(path, resolve=keep_variables))


def run(*command, folder, **variables):
    environment = {**os.environ, "COLUMNS": "120", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def list_sessions():
    """Commands with the output that is shown for them."""
    for block in BLOCKS:
        if block.language == "console":
            for command, output in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n?)*)", block.text, re.MULTILINE):
                yield pytest.param(command, output, id=f"{block.page}: {command}"[:90])


@pytest.mark.parametrize(("command", "output"), list_sessions())
def test_short_outputs_are_as_shown(tmp_path, command, output):
    for kind in ("jobs", "pipelines"):
        (tmp_path / kind).symlink_to(locate_shipped(kind))
    program, *words = shlex.split(command)
    assert program == "facscale"
    answer = run(sys.executable, "-m", "facscale.cli", *words, folder=tmp_path, FACSCALE_DATA=str(tmp_path / "data"))
    pattern = re.escape(output.strip()).replace("…", ".*")
    assert re.fullmatch(pattern, answer.strip(), re.DOTALL), answer


def test_the_readme_shows_the_headings_that_the_demo_prints():
    source = inspect.getsource(demo.run_demo)
    headings = re.findall(r'print_heading\(f?"([^"]+)", f?"([^"]+)"\)', source)
    shown = [line.strip() for line in (ROOT / "README.md").read_text().splitlines() if re.match(r" +\[\d/\d\]", line)]
    expected = []
    for number, text in headings:
        if "{pipeline}" in text:
            pipelines = enumerate(demo.PIPELINES, start=2)
            expected += [
                f"[{n}{number.removeprefix('{number}')}] {text.format(pipeline=name)}" for n, name in pipelines
            ]
        else:
            expected.append(f"[{number}] {text}")
    assert shown == expected


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of the tutorial, as `pip install --editable` leaves it: with the egg-info that names its entry point."""
    folder = tmp_path_factory.mktemp("package") / "frame_order"
    folder.mkdir()
    for block in BLOCKS:
        if block.page == "docs/tutorials/method.md" and block.title:
            (folder.parent / block.title).write_text(block.text + "\n")
    build = "from setuptools import build_meta; build_meta.get_requires_for_build_wheel()"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    assert (folder / "frame_order.egg-info" / "entry_points.txt").exists()
    return folder


def test_the_method_of_the_tutorial_keeps_the_contract(package):
    paths = os.pathsep.join([str(package), *sys.path])
    assert run(sys.executable, "check.py", folder=package, PYTHONPATH=paths).endswith("the contract holds\n")


def test_a_folder_on_the_path_of_a_worker_is_enough_to_find_the_method(package, tmp_path):
    paths = os.pathsep.join([str(package), *sys.path])  # where Ray puts an uploaded folder
    answer = run(sys.executable, "-m", "facscale.cli", "methods", "frame-order", folder=tmp_path, PYTHONPATH=paths)
    assert "trains encoder+head in order" in answer
    code = "from facscale.methods import configure; from facscale.spec import read_spec; configure(read_spec('order.yaml'))"
    assert run(sys.executable, "-c", code, folder=package.parent, PYTHONPATH=paths, FACSCALE_DATA="/data") == ""


def test_pictures_are_what_their_descriptions_draw():
    drawing = load_hook("drawing")
    for source in sorted(drawing.SOURCES.glob("*.txt")):
        drawn = (drawing.IMAGES / f"{source.stem}.svg").read_text()
        assert drawn == drawing.draw_file(source), "renew it: python docs/hooks/drawing.py"


def test_every_picture_that_a_page_shows_exists():
    for path in PAGES:
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text()):
            assert (Path(path.parent) / link).exists(), f"{path}: {link}"
