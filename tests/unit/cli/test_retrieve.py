"""Retrieval as a command: what it refuses, whom it asks about, who may answer. A whole run is in tests/integration."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from faces import data_set, track
from facscale.cli import main
from facscale.cli.retrieval_view import Answer, Face, active, drawing
from facscale.cli.retrieval_view import table as table_of
from facscale.cli.retrieve import Embedding, answered, drawn, photographed, places, stored
from facscale.data import Dataset, align
from facscale.inference import export
from facscale.inference.embed import Embeddings, OfFace, cache_key
from facscale.ingest import detectors
from facscale.methods import DataFacts, find
from facscale.spec.pipelines import Crop
from facscale.synthetic import render_clip

AUS = (1, 6, 12)
SHARE = {"size": 64, "eyes_y": 0.4, "eyes_distance": 0.35}


@pytest.fixture(scope="session")
def clip():
    return render_clip(identity=0, clip=0, seconds=0.1)


@pytest.fixture
def labelled(tmp_path):
    """Three people, two videos each, in several row groups; the numbers of a video's two tracks are the same."""
    tracks = [
        track(person, video, number, frames=range(4, 16), au=len(AUS))
        for person in range(3)
        for video in range(2)
        for number in range(2)
    ]
    return data_set(str(tmp_path / "labelled"), tracks, au=AUS, row_group_mb=0.02)


@pytest.fixture
def exported(tmp_path):
    method = export.build("tcae", find("tcae").Config(), DataFacts(image_size=32))
    path = tmp_path / "tcae.safetensors"
    path.write_bytes(export.save(method))
    return path


@pytest.fixture
def files(tmp_path, clip):
    """Photos and what is none."""
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "notes.txt").write_text("a face")
    return tmp_path


def embeddings(*names, features=None, au=()):
    """Of frames IDENTITY/VIDEO/FRAME."""
    identity, video, frame = zip(*(name.split("/") for name in names), strict=True)
    features = np.eye(len(names), dtype=np.float32) if features is None else np.array(features, np.float32)
    labels = np.array(au, np.int8).reshape(len(names), -1)
    return Embeddings(
        features, np.array(identity, object), np.array(video, object), np.array(frame, np.int32), labels, AUS
    )


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
    known = {"there": exported, "data": labelled.url, "files": files}
    done = CliRunner().invoke(main, ["retrieve", *(word.format(**known) for word in words)])
    assert done.exit_code == 2, done.output
    assert done.output.startswith("error: ")
    assert message.format(**known) in done.output


def test_nobody_is_left_to_answer_for_a_single_person(tmp_path, exported, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    data_set(str(tmp_path / "one"), [track(7, frames=range(9))])
    for words, advice in (([], "--anyone"), (["--anyone"], "all its frames are of one video, v0")):
        done = CliRunner().invoke(main, ["retrieve", str(exported), str(tmp_path / "one"), "id00007/v0/3", *words])
        assert done.exit_code == 2
        assert "nobody can answer" in done.output
        assert advice in done.output


def test_help_teaches():
    lines = CliRunner().invoke(main, ["retrieve", "--help"]).output.splitlines()
    assert "      facscale retrieve method.safetensors s3://faces/bp4d smile.jpg --sheet smiles.png" in lines


@pytest.mark.parametrize("phone", [False, True])
def test_a_photo_is_aligned_as_the_data_set_was(tmp_path, clip, phone):
    recipe = {"version": 1, "crop": SHARE, "detector": {"name": "dlib", "smallest_face": 0.3}}
    dataset = data_set(str(tmp_path / "set"), [track(0, frames=range(9), size=64)], size=64, recipe=recipe)
    photo = Image.fromarray(clip.frames[0])
    if phone:  # it lies on its side, and says so
        about = Image.Exif()
        about[0x0112] = 6
        photo.rotate(90, expand=True).save(tmp_path / "photo.jpg", quality=95, exif=about)
    else:
        photo.save(tmp_path / "photo.png")
    face = photographed(next(tmp_path.glob("photo.*")), dataset)
    dlib = detectors.find("dlib")(detectors.find("dlib").Config(smallest_face=0.3))
    (box,) = dlib.detect(clip.frames[0])
    wanted = align.similarity(align.eyes(dlib.landmarks(clip.frames[0], box)), Crop(**SHARE))
    expected = align.warp(clip.frames[0], wanted, 64).astype(int)
    assert np.abs(face.image - expected).mean() < (2 if phone else 1e-9)  # JPEG changes pixels, and eyes a little
    assert (face.identity, face.active) == (None, None)


def test_a_stored_frame_is_found_by_its_row(labelled):
    table = labelled.table(["identity", "video", "frame", "au"]).to_pydict()
    assert sum(len(shard.row_groups) for shard in labelled.manifest.shards) > 2
    for row in (0, 11, 12, 77, 143):
        face = stored(Dataset(labelled.url), row)
        assert face.name == f"{table['identity'][row]}/{table['video'][row]}/{table['frame'][row]}"
        labels = table["au"][row]
        expected = {au for au, label in zip(AUS, labels, strict=True) if label == 1}
        assert face.active == (None if max(labels) < 0 else expected)


def test_frames_that_were_not_embedded_are_passed_over(labelled):
    table = labelled.table(["identity", "video", "frame"]).to_pydict()
    names = ["/".join(map(str, parts)) for parts in zip(*table.values(), strict=True)]
    kept = np.delete(np.arange(len(names)), [0, 11, 12, 30, 143])  # names occur twice: tracks number alike
    assert places(embeddings(*(names[row] for row in kept)), labelled).tolist() == kept.tolist()
    assert places(embeddings(*names), labelled).tolist() == list(range(len(names)))


def test_frames_that_show_an_action_are_asked_about_first():
    au = [[0, 0, 0], [1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, -1, 0]]
    found = embeddings(*(f"a/v/{n}" for n in range(5)), au=au)
    orders = {tuple(drawn(found, number=4, seed=seed).tolist()) for seed in range(20)}
    assert {frozenset(order[:2]) for order in orders} == {frozenset({1, 3})}
    assert len(orders) > 5
    unlabelled = embeddings("a/v/0", "b/v/0", "c/v/0")
    assert sorted(drawn(unlabelled, number=9, seed=0)) == [0, 1, 2]


def test_strangers_answer_or_anyone_but_once_for_a_video():
    names = ["anna/one/1", "anna/one/2", "anna/two/1", "bela/one/1", "bela/one/2", "carl/one/1"]
    features = [[1, 0], [1, 0.01], [1, 0.1], [1, 0.3], [1, 0.2], [0, 1]]  # ever further from anna/one/1, but for bela
    found = embeddings(*names, features=features)
    image = np.zeros((8, 8, 3), np.uint8)
    asked = [Face("anna/one/1", image, None, "anna", "one"), Face("photo.jpg", image)]
    same = np.array([[1, 0], [1, 0]], np.float32)

    def rows(*, strangers, k=9):
        return [[answer.row for answer in line] for line in answered(asked, same, found, k=k, strangers=strangers)]

    assert rows(strangers=True) == [[4, 5], [0, 2, 4, 5]]
    assert rows(strangers=False) == [[2, 4, 5], [0, 2, 4, 5]]
    assert rows(strangers=True, k=1) == [[4], [0]]


def test_embeddings_of_one_method_are_kept_apart_in_the_cache():
    method = export.build("tcae", find("tcae").Config(), DataFacts(image_size=32))
    keys = {
        cache_key(OfFace(Embedding(method, name, dim=256)), fingerprint="f", about={}) for name in ("encoder", "pose")
    }
    assert len(keys) == 2


def test_shared_actions_are_marked_in_table_and_picture():
    found = embeddings("b/v/5", "c/v/7", "d/v/9", au=[[1, 0, 1], [0, 0, 0], [-1, -1, -1]])
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    asked = Face("a/v/1", images[0], frozenset({12}), "a", "v")
    answers = [Answer(0, 0.9), Answer(1, 0.8), Answer(2, -0.1)]
    drawn_up = table_of(asked, answers, found, k=4)
    columns = [[str(cell) for cell in column.cells] for column in drawn_up.columns]
    assert columns[1:5] == [["0.900", "0.800", "-0.100"], ["b", "c", "d"], ["v", "v", "v"], ["5", "7", "9"]]
    assert columns[5] == ["AU1 AU12*", "no AU", "not labelled"]
    assert "no more than 3" in drawn_up.caption

    shown = [Face("", image, active(labels, AUS)) for image, labels in zip(images[1:], found.au, strict=True)]
    figure = drawing([asked], [answers], [shown], title="nearest")
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
    query, best, second, _ = (axes.get_window_extent() for axes in figure.axes)
    assert best.x0 - query.x1 > 2 * (second.x0 - best.x1), "the query stands apart"
