"""`facscale retrieve` as a user runs it: a random encoder, a small data set, a small cluster of this machine."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from click.testing import CliRunner

import facscale.cli.retrieve as command
from faces import make_track, write_tracks
from facscale.cli import main
from facscale.data import augment
from facscale.inference import export
from facscale.methods import DataFacts, find_method
from facscale.spec.models import Augment
from facscale.synthetic import render_clip

pytestmark = [pytest.mark.slow("embeddings on Ray"), pytest.mark.usefixtures("ray_cluster")]
SIZE = 32
ROW = re.compile(r"^ *(\d+) +(-?\d\.\d{3}) +(\S+) +(\S+) +(\d+) +(.*?) *$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tests share the data set, the export and the cache: features are computed once."""
    return tmp_path_factory.mktemp("retrieve")


@pytest.fixture(scope="module")
def dataset(folder):
    tracks = [make_track(person, video, frames=range(6), au=2, size=48) for person in range(4) for video in range(2)]
    return write_tracks(str(folder / "set"), tracks, au=(6, 12), size=48, row_group_mb=0.02)


@pytest.fixture(scope="module")
def method(folder):
    torch.manual_seed(0)
    built = export.build_method("tcae", find_method("tcae").Config(), DataFacts(image_size=SIZE)).eval()
    (folder / "tcae.safetensors").write_bytes(export.save_export(built))
    return built


@pytest.fixture
def asked(folder, dataset, method, monkeypatch):
    """Calls the command and returns its output, and the rows of its tables."""
    monkeypatch.setattr(command, "CACHE", folder / "cache")

    def ask(*words):
        done = CliRunner().invoke(
            main,
            ["retrieve", str(folder / "tcae.safetensors"), dataset.url, *map(str, words)],
            catch_exceptions=False,
        )
        assert done.exit_code == 0, done.output
        return done.stdout, ROW.findall(done.stdout)

    return ask


def by_hand(method, dataset, name, *, query):
    """Similarity of every frame to the one in row `query`, by an embedding."""
    jpegs = dataset.read_columns(["jpeg"])["jpeg"].to_pylist()
    pixels = torch.from_numpy(np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs]))
    still = torch.from_numpy(augment.eval_params(Augment())).expand(len(pixels), -1)
    with torch.no_grad():
        found = method.embed(augment.apply(pixels, still, size=SIZE))[name]
    return torch.nn.functional.cosine_similarity(found, found[query, None]).numpy()


def test_the_answers_are_the_nearest_frames_of_other_people(asked, method, dataset):
    table = dataset.read_columns(["identity", "video", "frame", "au"]).to_pydict()
    frames = list(zip(table["identity"], table["video"], table["frame"], strict=True))
    query = frames.index(("id00001", "v0", 3))
    for name in ("encoder", "pose"):
        output, rows = asked("id00001/v0/3", "--embedding", name, "--k", 5)
        similar = by_hand(method, dataset, name, query=query)
        best = {}
        for row in np.argsort(-similar):
            if frames[row][0] != "id00001":
                best.setdefault(frames[row][:2], row)
        assert [(person, video, int(frame)) for _, _, person, video, frame, _ in rows] == [
            frames[row] for row in list(best.values())[:5]
        ]
        assert [float(value) for _, value, *_ in rows] == pytest.approx(similar[list(best.values())[:5]], abs=6e-4)
        for row, (*_, aus) in zip(best.values(), rows, strict=False):
            assert ("AU12" in aus) == (table["au"][row][1] == 1)
            assert ("AU12*" in aus) == (table["au"][row][1] == 1 == table["au"][query][1])
        assert name in output


def test_drawn_queries_and_a_photo_on_a_sheet(asked, tmp_path):
    _, rows = asked("--number", 2, "--k", 3, "--seed", 4, "--sheet", tmp_path / "drawn.png")
    assert [rank for rank, *_ in rows] == ["1", "2", "3"] * 2
    assert asked("--number", 2, "--k", 3, "--seed", 4)[1] == rows
    assert asked("--number", 2, "--k", 3, "--seed", 5)[1] != rows

    cv2.imwrite(str(tmp_path / "me.png"), render_clip(identity=0, clip=0, seconds=0.1).frames[0][:, :, ::-1])
    output, rows = asked(tmp_path / "me.png", "--k", 9, "--sheet", tmp_path / "photo.png")
    assert "me.png" in output
    assert len({(person, video) for _, _, person, video, *_ in rows}) == len(rows) == 8, "everybody is a stranger"
    tall, wide = (cv2.imread(str(tmp_path / name)).shape[:2] for name in ("drawn.png", "photo.png"))
    assert tall[0] > wide[0]
    assert tall[1] < wide[1]
