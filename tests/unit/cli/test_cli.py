"""What a user types, and reads."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from faces import lengths_data_set
from facscale.cli import main


@pytest.fixture
def facscale():
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def job(tmp_path):
    lengths_data_set(str(tmp_path / "u"), [12] * 24, row_group_mb=0.2)
    lengths_data_set(str(tmp_path / "l"), [20] * 9, au=(1, 12), row_group_mb=0.2, name="labelled")
    path = tmp_path / "job.yaml"
    path.write_text(
        "method: {name: clp, depth: 18, width: 4, length: 3, queue_size: 32}\n"
        f"data: {{unlabelled: {tmp_path}/u, labelled: {tmp_path}/l, image_size: 32}}\n"
        "train: {batch_size: 8, epochs: 2}\n"
        "cluster: {workers: 2}\n"
        "evaluate: {baselines: {supervised: {method: {name: supervised, depth: 18, width: 4}, data: {per_track: all}}}}\n"
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
        "6 in all",
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
    one = facscale("methods", "clp").output
    assert "margin" in one
    assert "0.03" in one
    assert "Eq" in one or "(1)" in one
    assert facscale("methods", "clq").exit_code == 2


def test_data_says_what_a_set_holds(facscale, job, tmp_path):
    found = facscale("data", tmp_path / "l").output
    assert "9 identities" in found
    assert "fold2" in found
    assert facscale("data", tmp_path / "nothing").exit_code == 2


@pytest.mark.parametrize(
    "command", ["run", "check", "rehearse", "doctor", "data", "methods", "retrieve", "sync", "demo"]
)
def test_every_command_explains_itself(facscale, command):
    done = facscale(command, "--help")
    assert done.exit_code == 0
    assert len(done.output) > 150
