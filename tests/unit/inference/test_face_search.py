"""The search for faces with similar movements: queries from photos and frames, and what may match them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from faces import make_track, write_tracks
from facscale.data import Dataset, align
from facscale.inference import export
from facscale.inference.embed import cache_key
from facscale.inference.face_search import (
    Face,
    NamedEmbedding,
    embedded_rows,
    load_frame,
    load_photo,
    sample_queries,
    search,
)
from facscale.inference.models import FrameEncoder
from facscale.ingest import detectors
from facscale.methods import DataFacts, find_method
from facscale.spec.pipelines import Crop
from facscale.synthetic import render_clip
from searched import AUS, make_embeddings, write_labelled_set

SHARE = {"size": 64, "eyes_y": 0.4, "eyes_distance": 0.35}


@pytest.fixture(scope="session")
def clip():
    return render_clip(identity=0, clip=0, seconds=0.1)


@pytest.fixture
def labelled(tmp_path):
    return write_labelled_set(tmp_path / "labelled")


@pytest.mark.parametrize("phone", [False, True])
def test_a_photo_is_aligned_as_the_data_set_was(tmp_path, clip, phone):
    options = {
        "smallest_face": 0.3,
        "detect_every": 5,
        "shortest_track": 5,
    }  # the last two as data sets before have them
    recipe = {"version": 1, "crop": SHARE, "detector": {"name": "dlib", **options}}
    dataset = write_tracks(str(tmp_path / "set"), [make_track(0, frames=range(9), size=64)], size=64, recipe=recipe)
    photo = Image.fromarray(clip.frames[0])
    if phone:  # it lies on its side, and says so
        about = Image.Exif()
        about[0x0112] = 6
        photo.rotate(90, expand=True).save(tmp_path / "photo.jpg", quality=95, exif=about)
    else:
        photo.save(tmp_path / "photo.png")
    face = load_photo(next(tmp_path.glob("photo.*")), dataset)
    dlib = detectors.find("dlib")(detectors.find("dlib").Config(smallest_face=0.3))
    upright = cv2.imread(str(next(tmp_path.glob("photo.*"))))[:, :, ::-1].copy()
    assert np.abs(upright.astype(int) - clip.frames[0]).mean() < 2  # JPEG changes pixels
    (box,) = dlib.detect(upright)
    wanted = align.fit_similarity(align.locate_eyes(dlib.predict_landmarks(upright, box)), Crop(**SHARE))
    assert np.abs(face.image - align.warp(upright, wanted, 64).astype(int)).mean() < 1e-9
    assert (face.identity, face.active) == (None, None)


def test_a_stored_frame_is_found_by_its_row(labelled):
    table = labelled.read_columns(["identity", "video", "frame", "au"]).to_pydict()
    assert sum(len(shard.row_groups) for shard in labelled.manifest.shards) > 2
    for row in (0, 11, 12, 77, 143):
        face = load_frame(Dataset(labelled.url), row)
        assert face.name == f"{table['identity'][row]}/{table['video'][row]}/{table['frame'][row]}"
        labels = table["au"][row]
        expected = {au for au, label in zip(AUS, labels, strict=True) if label == 1}
        assert face.active == (None if max(labels) < 0 else expected)


def test_frames_that_were_not_embedded_are_passed_over(labelled):
    table = labelled.read_columns(["identity", "video", "frame"]).to_pydict()
    names = ["/".join(map(str, parts)) for parts in zip(*table.values(), strict=True)]
    kept = np.delete(np.arange(len(names)), [0, 11, 12, 30, 143])  # names occur twice: tracks number alike
    assert embedded_rows(make_embeddings(*(names[row] for row in kept)), labelled).tolist() == kept.tolist()
    assert embedded_rows(make_embeddings(*names), labelled).tolist() == list(range(len(names)))


def test_frames_that_show_an_action_are_sampled_first():
    au = [[0, 0, 0], [1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, -1, 0]]
    stored = make_embeddings(*(f"a/v/{n}" for n in range(5)), au=au)
    orders = {tuple(sample_queries(stored, number=4, seed=seed).tolist()) for seed in range(20)}
    assert {frozenset(order[:2]) for order in orders} == {frozenset({1, 3})}
    assert len(orders) > 5
    unlabelled = make_embeddings("a/v/0", "b/v/0", "c/v/0")
    assert sorted(sample_queries(unlabelled, number=9, seed=0)) == [0, 1, 2]


def test_other_subjects_match_or_other_videos_but_once_for_a_video():
    names = ["anna/one/1", "anna/one/2", "anna/two/1", "bela/one/1", "bela/one/2", "carl/one/1"]
    features = [[1, 0], [1, 0.01], [1, 0.1], [1, 0.3], [1, 0.2], [0, 1]]  # ever further from anna/one/1, but for bela
    stored = make_embeddings(*names, features=features)
    image = np.zeros((8, 8, 3), np.uint8)
    faces = [Face("anna/one/1", image, None, "anna", "one"), Face("photo.jpg", image)]
    same = np.array([[1, 0], [1, 0]], np.float32)

    def rows(*, exclude_identity, k=9):
        return [
            [match.row for match in line]
            for line in search(faces, same, stored, k=k, exclude_identity=exclude_identity)
        ]

    assert rows(exclude_identity=True) == [[4, 5], [0, 2, 4, 5]]
    assert rows(exclude_identity=False) == [[2, 4, 5], [0, 2, 4, 5]]
    assert rows(exclude_identity=True, k=1) == [[4], [0]]


def test_embeddings_of_one_method_are_kept_apart_in_the_cache():
    method = export.build_method("tcae", find_method("tcae").Config(), DataFacts(image_size=32))
    keys = {
        cache_key(FrameEncoder(NamedEmbedding(method, name, dim=256)), fingerprint="f", settings={})
        for name in ("encoder", "pose")
    }
    assert len(keys) == 2
