"""`facscale retrieve`: what it refuses, its tables and its sheet. A whole run is in tests/integration."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from faces import make_track, write_tracks
from facscale.cli import main
from facscale.cli.retrieve import build_table, plot_sheet
from facscale.inference import export
from facscale.inference.face_search import Face, Match, select_active
from facscale.methods import DataFacts, find_method
from facscale.synthetic import render_clip
from searched import AUS, make_embeddings, write_labelled_set


@pytest.fixture(scope="session")
def clip():
    return render_clip(identity=0, clip=0, seconds=0.1)


@pytest.fixture
def labelled(tmp_path):
    return write_labelled_set(tmp_path / "labelled")


@pytest.fixture
def exported(tmp_path):
    method = export.build_method("tcae", find_method("tcae").Config(), DataFacts(image_size=32))
    path = tmp_path / "tcae.safetensors"
    path.write_bytes(export.save_export(method))
    return path


@pytest.fixture
def files(tmp_path, clip):
    """Photos and what is none."""
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "notes.txt").write_text("a face")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{there}", "{data}", "--k", "0"], "--k 0: there is nothing to show"),
        (["{there}", "{data}", "--number", "-1"], "--number -1: there is nothing to show"),
        (["{there}", "{data}", "--sheet", "{files}/sheet.pdf"], "call it sheet.png"),
        (["{there}", "{data}", "--sheet", "{files}/no/sheet.png"], "there is no folder {files}/no"),
        (["{there}", "{files}"], "{files} is no data set"),
        (["{files}/gone.safetensors", "{data}"], "{files}/gone.safetensors: there is no such file"),
        (["{files}", "{data}"], "{files} is a folder"),
        (["{files}/notes.txt", "{data}"], "{files}/notes.txt: not an exported method"),
        (
            ["{there}", "{data}", "--embedding", "posse"],
            '{there}: tcae has no embedding "posse" (did you mean "pose"?)',
        ),
        (["{there}", "{data}", "smile.jpg"], "smile.jpg: neither an image file"),
        (["{there}", "{data}", "id00001/v0/99"], "its frames are id00001/v0/4 to id00001/v0/15"),
        (["{there}", "{data}", "id00009/v0/4"], "one of its frames is id00000/v0/4"),
        (["{there}", "{data}", "id00001/v0/4", "{files}/notes.txt"], "{files}/notes.txt: cannot be read as an image"),
        (["{there}", "{data}", "{files}/wall.png"], "{files}/wall.png: no face is found"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(labelled, exported, files, monkeypatch, words, message):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    values = {"there": exported, "data": labelled.url, "files": files}
    done = CliRunner().invoke(main, ["retrieve", *(word.format(**values) for word in words)])
    assert done.exit_code == 2, done.output
    assert done.output.startswith("error: ")
    assert message.format(**values) in done.output


def test_a_single_person_has_no_other_subjects_to_match(tmp_path, exported, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    write_tracks(str(tmp_path / "one"), [make_track(7, frames=range(9))])
    for words, advice in (([], "--include-identity"), (["--include-identity"], "all frames are of the same video, v0")):
        done = CliRunner().invoke(main, ["retrieve", str(exported), str(tmp_path / "one"), "id00007/v0/3", *words])
        assert done.exit_code == 2
        assert advice in done.output


def test_help_teaches():
    lines = CliRunner().invoke(main, ["retrieve", "--help"]).output.splitlines()
    assert "      facscale retrieve method.safetensors s3://faces/bp4d smile.jpg --sheet smiles.png" in lines


def test_shared_actions_are_marked_in_table_and_picture():
    stored = make_embeddings("b/v/5", "c/v/7", "d/v/9", au=[[1, 0, 1], [0, 0, 0], [-1, -1, -1]])
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    query = Face("a/v/1", images[0], frozenset({12}), "a", "v")
    matches = [Match(0, 0.9), Match(1, 0.8), Match(2, -0.1)]
    table = build_table(query, matches, stored, k=4)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    assert columns[1:5] == [["0.900", "0.800", "-0.100"], ["b", "c", "d"], ["v", "v", "v"], ["5", "7", "9"]]
    assert columns[5] == ["AU1 AU12*", "no AU", "not labelled"]
    assert "no more than 3" in table.caption

    frames = [Face("", image, select_active(labels, AUS)) for image, labels in zip(images[1:], stored.au, strict=True)]
    figure = plot_sheet([query], [matches], [frames], title="nearest")
    assert all(
        np.array_equal(axes.images[0].get_array(), image) for axes, image in zip(figure.axes, images, strict=True)
    )
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [
        ["a/v/1", "AU 12"],
        ["0.900", "AU 12", "AU 1"],
        ["0.800"],
        ["-0.100"],
    ]
    figure.draw_without_rendering()
    query_box, best, second, _ = (axes.get_window_extent() for axes in figure.axes)
    assert best.x0 - query_box.x1 > 2 * (second.x0 - best.x1), "the query stands apart"
