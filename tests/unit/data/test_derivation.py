"""Samples, unions and versions without a person hold exactly the frames that they should, and say where they are from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from faces import make_track, write_expression_data_set, write_face_data_set, write_tracks
from facscale.data import DataError, Dataset
from facscale.data.derivation import (
    draw_people,
    forget_people,
    hash_identity,
    list_ancestors,
    list_forgotten,
    merge_datasets,
    select_people,
)
from facscale.data.rows import to_numpy
from facscale.data.tracks import find_frame_step, iterate_tracks
from facscale.data.verification import verify_dataset


@pytest.fixture
def source(tmp_path):
    """Long and short tracks, two videos and two tracks for some, over several shards and row groups."""
    tracks = [make_track(0, frames=range(60), au=2)]  # longer than a row group
    tracks += [make_track(1, video, number, frames=range(7), au=2) for video in range(2) for number in range(2)]
    tracks += [make_track(person, frames=range(0, 30, 2), au=2) for person in range(2, 8)]
    return write_tracks(
        str(tmp_path / "source"), tracks, au=(1, 12), row_group_mb=0.02, shard_mb=0.1, recipe={"layout": "videos"}
    )


def read_rows(dataset):
    dataset = Dataset(dataset.url)
    assert verify_dataset(dataset) == []
    groups = [(s, g) for s, shard in enumerate(dataset.manifest.shards) for g in range(len(shard.row_groups))]
    return pa.concat_tables(dataset.read(shard=shard, row_group=group) for shard, group in groups).combine_chunks()


def test_tracks_are_read_whole_and_in_order(source):
    tracks = list(iterate_tracks(source))
    assert [track.key for track in tracks] == sorted(track.key for track in tracks)
    assert pa.concat_tables(track.rows for track in tracks).combine_chunks().equals(read_rows(source))
    only = list(iterate_tracks(source, identities={"id00000", "id00003"}))
    assert [(track.key[0], track.rows.num_rows) for track in only] == [("id00000", 60), ("id00003", 15)]


def test_only_row_groups_with_the_wanted_people_are_read(source):
    groups = []
    list(iterate_tracks(source, identities={"id00007"}, advance=lambda: groups.append(1)))
    assert 0 < len(groups) <= 2
    assert sum(len(shard.row_groups) for shard in source.manifest.shards) > 5


def test_a_sample_holds_all_rows_of_the_drawn_people(source, tmp_path):
    people = draw_people(source, count=3, seed=5)
    assert people < draw_people(source, count=6, seed=5)
    step = {"command": "sample", "people": 3, "seed": 5}
    manifest = select_people(source, str(tmp_path / "sample"), identities=people, step=step)
    whole = read_rows(source)
    expected = whole.filter(pa.array([name in people for name in whole["identity"].to_pylist()]))
    assert read_rows(Dataset(str(tmp_path / "sample"))).equals(expected.combine_chunks())
    assert manifest.counts["identities"] == 3
    assert manifest.recipe["layout"] == "videos"
    (entry,) = manifest.recipe["history"]
    assert entry == {**step, "from": [{"name": "test", "fingerprint": source.manifest.fingerprint}]}
    with pytest.raises(DataError, match="has 8 people, so 9 cannot be drawn"):
        draw_people(source, count=9, seed=0)


def test_the_source_is_unchanged_and_nothing_is_overwritten(source, tmp_path):
    before = {path: path.read_bytes() for path in source.folder.path.rglob("*") if path.is_file()}
    forget_people(source, str(tmp_path / "new"), identities=["id00003"])
    assert {path: path.read_bytes() for path in source.folder.path.rglob("*") if path.is_file()} == before
    with pytest.raises(DataError, match="already holds a data set"):
        forget_people(source, source.url, identities=["id00003"])


def test_a_forgotten_person_is_in_no_byte_of_the_new_version(source, tmp_path):
    forget_people(source, str(tmp_path / "once"), identities=["id00003"])
    once = Dataset(str(tmp_path / "once"))
    jpegs = [jpeg.as_py() for track in iterate_tracks(source, identities={"id00003"}) for jpeg in track.rows["jpeg"]]
    stored = [path.read_bytes() for path in (tmp_path / "once").rglob("*") if path.is_file()]
    assert not any(jpeg in content for jpeg in jpegs for content in stored)
    assert not any(b"id00003" in content for content in stored)
    assert once.manifest.counts["frames"] == source.manifest.counts["frames"] - 15
    assert set(once.runs.identities) == set(source.runs.identities) - {"id00003"}
    twice = forget_people(once, str(tmp_path / "twice"), identities=["id00004", "id00005"])
    assert list_forgotten(twice.recipe) == {hash_identity(f"id0000{number}") for number in (3, 4, 5)}
    assert list(list_ancestors(twice.recipe)) == [source.manifest.fingerprint, once.manifest.fingerprint]


def test_names_that_are_not_there_are_refused_before_anything_is_written(source, tmp_path):
    with pytest.raises(DataError, match="has no identity id9, nobody; its 8 identities are named like id00000"):
        forget_people(source, str(tmp_path / "new"), identities=["id00001", "nobody", "id9"])
    with pytest.raises(DataError, match="nobody else"):
        forget_people(source, str(tmp_path / "new"), identities=source.runs.identities)
    assert not (tmp_path / "new").exists()


def test_a_union_has_the_rows_and_aus_of_all(source, tmp_path):
    tracks = [make_track(person, frames=range(0, 20, 1), au=2) for person in range(20, 23)]
    other = write_tracks(str(tmp_path / "other"), tracks, au=(12, 4), name="other", recipe={"layout": "bp4d"})
    manifest = merge_datasets([other, source], str(tmp_path / "union"))
    assert (manifest.name, manifest.au) == ("other+test", (1, 4, 12))
    rows = read_rows(Dataset(str(tmp_path / "union")))
    assert rows.num_rows == source.manifest.counts["frames"] + 60
    assert rows.select(["identity", "frame", "jpeg"]).equals(
        pa.concat_tables([read_rows(source), read_rows(other)]).select(["identity", "frame", "jpeg"]).combine_chunks()
    )
    labels, split = to_numpy(rows["au"]), source.manifest.counts["frames"]
    assert (labels[:split, 1] == -1).all()
    np.testing.assert_array_equal(labels[:split, [0, 2]], to_numpy(read_rows(source)["au"]))
    np.testing.assert_array_equal(labels[split:, [2, 1]], to_numpy(read_rows(other)["au"]))
    assert [entry["layout"] for entry in manifest.recipe["sources"]] == ["bp4d", "videos"]
    assert len(manifest.recipe["history"][-1]["from"]) == 2


def test_shared_names_are_never_taken_for_one_person_unasked(source, tmp_path):
    other = write_tracks(str(tmp_path / "o"), [make_track(3, 5, frames=range(9), au=2)], au=(1, 12), name="other")
    with pytest.raises(DataError, match="1 identities are in several of the data sets, such as id00003"):
        merge_datasets([source, other], str(tmp_path / "a"))
    assert merge_datasets([source, other], str(tmp_path / "b"), is_same_people=True).counts["identities"] == 8
    manifest = merge_datasets([source, other], str(tmp_path / "c"), should_prefix=True)
    assert manifest.counts["identities"] == 9
    assert "other:id00003" in Dataset(str(tmp_path / "c")).runs.identities
    again = write_tracks(str(tmp_path / "p"), [make_track(3, 0, frames=range(9), au=2)], au=(1, 12), name="other")
    with pytest.raises(DataError, match="the track id00003/v0/0 is in several"):
        merge_datasets([source, again], str(tmp_path / "d"), is_same_people=True)


def test_sets_that_do_not_fit_together_are_refused(source, tmp_path):
    large = write_tracks(str(tmp_path / "l"), [make_track(30, frames=range(3), size=48)], size=48)
    wide = write_tracks(str(tmp_path / "w"), [make_track(30, frames=range(3))], margin=0.25)
    moving = write_face_data_set(str(tmp_path / "f"), [4], flow=True)
    moods = write_expression_data_set(str(tmp_path / "m"), ("calm", "glad"), train=2, test=1)
    for other, message in (
        (large, "crops of one size .*32 px.*48 px"),
        (wide, "crops of one margin .*: 0; .*: 0.25"),
        (moving, "the same columns"),
        (moods, "the same expressions"),
    ):
        with pytest.raises(DataError, match=message):
            merge_datasets([source, other], str(tmp_path / "none"), is_same_people=True)


def test_tracks_keep_their_own_frame_rate_and_step(source, tmp_path):
    sparse = write_tracks(str(tmp_path / "s"), [make_track(30, frames=range(0, 40, 5))], every=5, fps=30.0)
    assert find_frame_step(sparse) == 5
    merge_datasets([source, sparse], str(tmp_path / "union"))
    forget_people(Dataset(str(tmp_path / "union")), str(tmp_path / "later"), identities=["id00003"])
    for url in ("union", "later"):
        runs = Dataset(str(tmp_path / url)).runs
        timing = {
            (runs.identities[code], fps, every)
            for code, fps, every in zip(runs.identity, runs.fps, runs.every, strict=True)
        }
        assert ("id00030", 30, 5) in timing
        assert {pair[1:] for pair in timing} == {(30, 5), (25, 1)}
        assert runs.frames[runs.mask_subjects(["id00030"])].tolist() == [8]  # one unbroken run


def test_expressions_and_further_columns_are_kept(tmp_path):
    moods = write_expression_data_set(str(tmp_path / "m"), ("calm", "glad"), train=2, test=1)
    forget_people(moods, str(tmp_path / "n"), identities=["id00000"])
    assert read_rows(Dataset(str(tmp_path / "n"))).equals(read_rows(moods).slice(1).combine_chunks())
    flow = write_face_data_set(str(tmp_path / "f"), [4, 5], flow=True)
    forget_people(flow, str(tmp_path / "g"), identities=["id00000"])
    assert "flow" in read_rows(Dataset(str(tmp_path / "g"))).column_names


def test_sets_without_parts_are_merged_with_sets_that_have_some(source, tmp_path):
    track = make_track(30, frames=range(5), au=2)
    other = write_tracks(str(tmp_path / "o"), [track.append_column("part", pa.array(["test"] * 5))], au=(1, 12))
    merge_datasets([source, other], str(tmp_path / "union"))
    rows = read_rows(Dataset(str(tmp_path / "union")))
    people = dict(zip(rows["identity"].to_pylist(), rows["part"].to_pylist(), strict=True))
    assert people.pop("id00030") == "test"
    assert set(people.values()) == {""}


def test_measures_that_one_of_the_sets_lacks_are_unknown_there(source, tmp_path):
    track = make_track(30, frames=range(5), au=2)
    track = track.append_column("sharpness", pa.array(np.arange(5, dtype=np.float32)))
    other = write_tracks(str(tmp_path / "o"), [track], au=(1, 12), name="other")
    merge_datasets([source, other], str(tmp_path / "union"))
    values = read_rows(Dataset(str(tmp_path / "union")))["sharpness"].to_numpy()
    assert np.isnan(values[:-5]).all()
    np.testing.assert_array_equal(values[-5:], np.arange(5))
