"""`facscale data …`: what users type, what they read, and the exit status."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from faces import write_face_data_set
from facscale.cli import main


@pytest.fixture
def facscale():
    return lambda *words: CliRunner().invoke(main, ["data", *map(str, words)])


@pytest.fixture
def faces(tmp_path):
    return write_face_data_set(str(tmp_path / "faces"), [12] * 9, au=(1, 12))


def test_describe_is_meant_where_only_a_url_is_given(facscale, faces):
    done = facscale(faces.url)
    assert done.exit_code == 0
    assert "9 identities, 9 videos, 9 tracks, 108 frames" in done.output
    assert facscale("describe", faces.url).output == done.output


def test_a_misspelt_command_is_not_taken_for_a_folder(facscale, faces):
    done = facscale("verfy", faces.url)
    assert done.exit_code == 2
    assert "did you mean facscale data verify?" in done.output


def test_verify_tells_by_its_exit_status_whether_all_is_well(facscale, faces, tmp_path):
    done = facscale("verify", faces.url)
    assert done.exit_code == 0, done.output
    assert "are as they were written" in done.output
    shard = faces.manifest.shards[0]
    (faces.folder.path / shard.file).unlink()
    done = facscale("verify", faces.url)
    assert done.exit_code == 1
    assert f"{shard.file}: is missing ({shard.rows} frames)" in done.output
    assert f"{shard.rows} of 108 frames are lost" in done.output
    assert facscale("verify", tmp_path / "nothing").exit_code == 2


@pytest.mark.parametrize("name", list(main.commands["data"].commands))
def test_every_command_explains_itself_with_an_example(facscale, name):
    done = facscale(name, "--help")
    assert done.exit_code == 0
    _, first, empty, example = (line.strip() for line in done.output.splitlines()[1:5])
    assert first.endswith(".")
    assert empty == ""
    assert example.startswith(f"facscale data {name}")
