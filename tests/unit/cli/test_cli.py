"""Commands and their output: check, methods, data and the help."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch  # noqa: F401 - its first import starts a process
from click.testing import CliRunner

from faces import write_face_data_set
from facscale import cli as facscale_cli
from facscale.cli import main


@pytest.fixture
def facscale():
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def job(tmp_path):
    write_face_data_set(str(tmp_path / "u"), [12] * 24, row_group_mb=0.2)
    write_face_data_set(str(tmp_path / "l"), [20] * 9, au=(1, 12), row_group_mb=0.2, name="labelled")
    path = tmp_path / "job.yaml"
    path.write_text(
        "method: {name: clp, depth: 18, width: 4, length: 3, queue_size: 32}\n"
        f"data: {{unlabelled: {tmp_path}/u, labelled: {tmp_path}/l, image_size: 32}}\n"
        "train: {batch_size: 8, epochs: 2}\n"
        "cluster: {workers: 2}\n"
        "evaluate: {baselines: {supervised: {method: {name: supervised, depth: 18, width: 4}, data: {epoch: {samples_per: frame}}}}}\n"
    )
    return path


def test_check_prints_the_whole_plan_and_starts_nothing(facscale, job, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    done = facscale("check", job)
    assert done.exit_code == 0, done.output
    for expected in (
        "queue_size: 32",
        "canonical_streams: 64",
        "[4, 3, 1, 3, 32, 32]",
        "24 samples",
        "6 in total",
        "M trained",
        "TFLOP",
        "GiB",
        "H100",
        "3 people",
    ):
        assert expected in done.output, expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=1", 'unknown key "train.epoch" (did you mean "epochs"?)'),
        ("method.margn=1", 'unknown key "method.margn" (did you mean "margin"?)'),
        ("cluster.workers=3", "does not divide among 3 workers"),
        ("cluster.workers=[2, 4]", "does not divide among 3 workers"),
        ("method.length=99", "a sample needs 197 unbroken frames"),
        ("data.unlabelled=/nowhere/at/all", "/nowhere/at/all"),
        ("evaluate.folds=12", "9 subjects, too few for evaluate.folds=12"),
    ],
)
def test_check_refuses_what_cannot_run(facscale, job, override, message):
    done = facscale("check", job, override)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_labels_are_needed_where_labels_are_said_to_be(facscale, job, tmp_path):
    done = facscale("check", job, f"data.labelled={tmp_path}/u")
    assert done.exit_code == 2
    assert "has no AU labels" in done.output


def test_methods_are_listed_and_explained(facscale):
    assert {"clp", "supervised"} <= set(facscale("methods").output.split())
    output = facscale("methods", "clp").output
    assert "margin" in output
    assert "0.03" in output
    assert "Eq" in output or "(1)" in output
    assert facscale("methods", "clq").exit_code == 2


def test_data_says_what_a_set_holds(facscale, job, tmp_path):
    output = facscale("data", tmp_path / "l").output
    assert "9 identities" in output
    assert "fold2" in output
    assert facscale("data", tmp_path / "nothing").exit_code == 2


@pytest.mark.parametrize("command", list(main.commands))
def test_every_command_explains_itself_with_an_example(facscale, command):
    done = facscale(command, "--help")
    assert done.exit_code == 0
    _, first, empty, example = (line.strip() for line in done.output.splitlines()[1:5])
    assert first.endswith("."), "one line says what the command does"
    assert empty == ""
    assert example.startswith(f"facscale {command}")


def test_the_help_lists_each_command_once_with_a_whole_line(facscale):
    output = facscale("--help").output
    sections = output.split("\nJobs:\n")[1]
    assert "..." not in sections, "a line is cut off"
    listed = [line.split()[0] for line in sections.splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(main.commands)
    assert listed[:2] == ["run", "check"], "the most used first"
    titles = [line for line in output.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", "Jobs:", "Data and methods:", "Results:", "Models:", "Clusters and setup:"]


def test_the_help_imports_nothing_heavy():
    code = "import sys, facscale.cli; print(*{name.split('.')[0] for name in sys.modules})"
    modules = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not modules & {"torch", "ray", "mlflow", "numpy", "pydantic", "rich", "kubernetes", "matplotlib"}


@pytest.mark.parametrize("name", ["methods", "data", "compare", "published", "retrieve", "demo", "sync", "init"])
def test_modules_are_not_hidden_by_commands(name):
    module = importlib.import_module(f"facscale.cli.{name}")
    assert getattr(facscale_cli, name) is module
