"""`facscale init`: jobs and pipelines become the user's files, and no file of theirs is lost."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from conftest import ROOT
from facscale.cli import main
from facscale.spec import read_spec

SHIPPED = sorted(str(path.relative_to(ROOT)) for kind in ("jobs", "pipelines") for path in (ROOT / kind).iterdir())


def run_init(*words):
    return CliRunner().invoke(main, ["init", *map(str, words)])


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_all_jobs_and_pipelines_are_copied_as_programs_that_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "/data/faces")
    done = run_init(tmp_path / "faces")
    assert done.exit_code == 0, done.output
    assert list_files(tmp_path / "faces") == SHIPPED
    for name in SHIPPED:
        copy = tmp_path / "faces" / name
        assert copy.read_bytes() == (ROOT / name).read_bytes()
        assert os.access(copy, os.X_OK)
    assert read_spec(tmp_path / "faces" / "jobs" / "demo.yaml").data["method"]["name"] == "clp"  # and what it extends


def test_it_says_what_to_do_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "cd faces\n" in run_init("faces").output
    done = run_init()
    assert "cd " not in done.output
    assert "facscale check jobs/clp.yaml" in done.output
    assert (tmp_path / "jobs" / "clp.yaml").exists()


def test_a_changed_file_stops_it_before_anything_is_written(tmp_path):
    own = tmp_path / "pipelines" / "videos.yaml"
    own.parent.mkdir()
    own.write_text("name: mine\n")
    done = run_init(tmp_path)
    assert done.exit_code == 2
    assert f"{own}: there already" in done.output
    assert "nothing was written" in done.output
    assert list_files(tmp_path) == ["pipelines/videos.yaml"]
    assert own.read_text() == "name: mine\n"


def test_what_is_missing_comes_back_and_own_files_stay(tmp_path):
    run_init(tmp_path)
    (tmp_path / "jobs" / "clp.yaml").unlink()
    (tmp_path / "jobs" / "mine.yaml").write_text("extends: clp.yaml\n")
    assert run_init(tmp_path).exit_code == 0
    assert list_files(tmp_path) == sorted([*SHIPPED, "jobs/mine.yaml"])


@pytest.mark.parametrize("name", ["jobs", "jobs/clp.yaml"])
def test_a_file_or_folder_in_the_way_is_named(tmp_path, name):
    if name == "jobs":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir(parents=True)
    done = run_init(tmp_path)
    assert done.exit_code == 2
    assert str(tmp_path) in done.output
    assert not (tmp_path / "pipelines").exists()
