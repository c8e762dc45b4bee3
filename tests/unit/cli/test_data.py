"""`facscale data …`: what users type, what they read, and the exit status."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from faces import write_face_data_set
from facscale.cli import main
from facscale.ingest.items import Fault
from facscale.ingest.work_store import ItemStatus, WorkStore


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


def test_failed_lists_what_a_pipeline_could_not_read(facscale, tmp_path):
    bad = ItemStatus("k1", "a.mp4", "a", "a", "", faces=3, faults=(Fault("a.mp4", "decode", "stopped after 3 frames"),))
    empty = ItemStatus("k2", "b.mp4", "b", "b", "", frames=9, faults=(Fault("b.mp4", "faces", "no face"),))
    store = WorkStore(str(tmp_path))
    for status in (bad, empty):
        store.save(status, faces=None)
    done = facscale("failed", tmp_path)
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "a.mp4: decode: stopped after 3 frames (3 faces kept)",
        f"{tmp_path}: 1 items failed",
    ]
    store.delete_items(["k1"])
    assert facscale("failed", tmp_path).exit_code == 0
    assert facscale("failed", tmp_path / "nothing").exit_code == 2


def test_only_pipelines_retry(tmp_path):
    (tmp_path / "job.yaml").write_text("method: {name: clp}\n")
    done = CliRunner().invoke(main, ["run", str(tmp_path / "job.yaml"), "--retry-failed"])
    assert done.exit_code == 2
    assert "--retry-failed is for data pipelines" in done.output


def test_diff_tells_by_its_exit_status_whether_the_sets_differ(facscale, faces, tmp_path):
    assert facscale("copy", faces.url, tmp_path / "copy").exit_code == 0
    done = facscale("diff", faces.url, tmp_path / "copy", "--frames")
    assert done.exit_code == 0, done.output
    assert "no difference" in done.output
    assert facscale("sample", faces.url, tmp_path / "few", "--people", 3).exit_code == 0
    done = facscale("diff", faces.url, tmp_path / "few")
    assert done.exit_code == 1
    assert f"6 identities only in {faces.url}: id0000" in done.output


def test_merge_needs_two_sources_and_warns_of_other_crops(facscale, faces, tmp_path):
    done = facscale("merge", faces.url, tmp_path / "new")
    assert done.exit_code == 2
    assert "needs at least two data sets" in done.output
    other = write_face_data_set(str(tmp_path / "other"), [5], au=(4,), name="other", recipe={"crop": {"eyes_y": 0.4}})
    done = facscale("merge", faces.url, other.url, tmp_path / "new", "--prefix", "--name", "both")
    assert done.exit_code == 0, done.output
    assert "warning: these data sets were made with another crop" in done.output
    assert "both: 10 identities" in done.output
    assert "AU1" in done.output
    assert "AU4" in done.output


def test_forget_writes_the_next_version_and_leaves_the_old_one(facscale, faces, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = facscale("forget", "id00002", "--in", faces.url)
    assert done.exit_code == 2
    assert "which runs have seen them?" in done.output
    assert not (tmp_path / "faces-v2").exists()
    store = f"sqlite:///{tmp_path}/mlflow.db"
    done = facscale("forget", "id00002", "--in", faces.url, "--tracker", store)
    assert done.exit_code == 0, done.output
    assert "no run had a data set with id00002" in done.output
    assert f"{faces.url} still holds id00002" in done.output
    done = facscale("forget", "id00003", "--in", f"{faces.url}-v2", "--no-tracker")
    assert done.exit_code == 0, done.output
    assert f"{faces.url}-v3: without id00003, 12 frames less" in done.output
    assert facscale("forget", "id00002", "--in", f"{faces.url}-v3", "--no-tracker").exit_code == 2
    assert "9 identities" in facscale(faces.url).output


def test_describe_writes_a_page(facscale, faces, tmp_path):
    done = facscale("describe", faces.url, "--page", tmp_path / "faces.html")
    assert done.exit_code == 0, done.output
    assert "<h2>Action units</h2>" in (tmp_path / "faces.html").read_text()
