"""`compare_datasets`: each kind of difference is found, with the names of what differs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from faces import make_track, write_tracks
from facscale.data import Dataset
from facscale.data.derivation import forget_people
from facscale.data.difference import compare_datasets


def make(tmp_path, name, tracks, **options):
    return write_tracks(str(tmp_path / name), tracks, **{"au": (1, 12), "row_group_mb": 0.02, **options})


@pytest.fixture
def tracks():
    return [make_track(person, video, frames=range(12), au=2) for person in range(3) for video in range(2)]


def test_equal_sets_have_no_difference_whatever_their_shards(tmp_path, tracks):
    first, second = make(tmp_path, "a", tracks), make(tmp_path, "b", tracks, row_group_mb=1.0)
    assert not compare_datasets(first, second, should_read_frames=True)


def test_settings_of_manifest_and_recipe_are_compared(tmp_path, tracks):
    first = make(tmp_path, "a", tracks, recipe={"every": 1, "detector": {"name": "dlib"}})
    second = make(tmp_path, "b", tracks, recipe={"every": 1, "detector": {"name": "x"}}, fps=30.0)
    settings = compare_datasets(first, second).settings
    assert settings == {"fps": (25.0, 30.0), "recipe.detector": ({"name": "dlib"}, {"name": "x"})}


def test_a_missing_person_counts_once_and_not_as_a_missing_video_too(tmp_path, tracks):
    first = make(tmp_path, "a", tracks)
    forget_people(first, str(tmp_path / "b"), identities=["id00001"])
    difference = compare_datasets(first, Dataset(str(tmp_path / "b")))
    assert difference.identities == (["id00001"], [])
    assert difference.videos == ([], [])
    assert list(difference.settings) == ["recipe.history"]


def test_videos_tracks_and_lengths_are_named_by_the_side_that_has_them(tmp_path, tracks):
    more = [*tracks[:-1], make_track(2, 1, 1, frames=range(12), au=2)]
    more[0] = make_track(0, 0, frames=range(9), au=2)
    del more[2]
    difference = compare_datasets(make(tmp_path, "a", tracks), make(tmp_path, "b", more))
    assert difference.videos == (["id00001/v0"], [])
    assert difference.tracks == (["id00002/v1/0"], ["id00002/v1/1"])
    assert difference.lengths == {"id00000/v0/0": (12, 9)}


def test_frames_are_compared_by_pixels_landmarks_and_labels(tmp_path, tracks):
    changed = list(tracks)
    labels = np.stack(tracks[1]["au"].to_numpy()).copy()
    labels[3:5] = 1 - np.abs(labels[3:5])
    column = pa.FixedSizeListArray.from_arrays(pa.array(labels.astype(np.int8).ravel()), 2)
    changed[1] = tracks[1].set_column(tracks[1].column_names.index("au"), "au", column)
    jpegs = tracks[4]["jpeg"].to_pylist()
    jpegs[0], jpegs[7] = jpegs[7], jpegs[0]
    changed[4] = tracks[4].set_column(tracks[4].column_names.index("jpeg"), "jpeg", [jpegs])
    first, second = make(tmp_path, "a", tracks), make(tmp_path, "b", changed)
    assert not compare_datasets(first, second)
    difference = compare_datasets(first, second, should_read_frames=True)
    assert difference.labels == {"id00000/v1/0": 2}
    assert difference.pixels == {"id00002/v0/0": 2}
    assert difference.landmarks == {}
