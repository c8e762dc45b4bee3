"""Data sets: what is read is what was written, and anything else is a clear error."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faces import make_track, write_expression_data_set, write_face_data_set, write_tracks
from facscale.data import CorruptError, DataError, Dataset, ShardWriter
from facscale.data.manifest import INDEX, MANIFEST


def rows_by_run(dataset: Dataset):
    """Yield the table rows and the number of each run, read from the files."""
    runs = dataset.runs
    for number in range(len(runs)):
        table = dataset.read(shard=int(runs.shard[number]), row_group=int(runs.row_group[number]))
        rows = table.slice(int(runs.start[number]), int(runs.frames[number]))
        yield rows, number


def test_any_parquet_reader_sees_the_rows_in_order(tmp_path):
    tracks = [make_track(person, video, frames=range(10), au=2) for person in range(3) for video in range(2)]
    dataset = write_tracks(str(tmp_path), tracks, au=(1, 12), row_group_mb=0.02, shard_mb=0.05)
    files = sorted(tmp_path.glob("shard-*.parquet"))
    assert [shard.file for shard in dataset.manifest.shards] == [file.name for file in files]
    assert len(files) > 1
    assert pa.concat_tables(pq.read_table(file) for file in files).equals(
        pa.concat_tables(tracks).cast(pq.read_schema(files[0]))
    )
    assert dataset.manifest.counts == {
        "identities": 3,
        "videos": 6,
        "tracks": 6,
        "frames": 60,
        "labelled_frames": int(sum((np.stack(t["au"].to_numpy()) >= 0).any(axis=1).sum() for t in tracks)),
    }


def test_expressions_are_stored_with_their_classes(tmp_path):
    dataset = write_expression_data_set(str(tmp_path / "moods"), ("calm", "glad"), train=2, test=1)
    assert dataset.manifest.expressions == ("calm", "glad")
    assert dataset.read_columns(["expression", "part"]).to_pydict() == {
        "expression": [0, 1] * 3,
        "part": ["train"] * 4 + ["test"] * 2,
    }
    assert dataset.manifest.counts["labelled_frames"] == 6
    with pytest.raises(DataError, match=r"without the column\(s\) expression, part"):
        write_tracks(str(tmp_path / "b"), [make_track(0, frames=[0])], expressions=("calm", "glad"))


def test_manifests_from_before_there_were_expressions_are_read(tmp_path):
    write_face_data_set(str(tmp_path), [3])
    path = tmp_path / MANIFEST
    fields = json.loads(path.read_text())
    assert fields.pop("expressions") == []
    path.write_text(json.dumps(fields))
    assert Dataset(str(tmp_path)).manifest.expressions == ()


def test_row_groups_are_read_one_at_a_time_and_hold_what_the_shard_holds(tmp_path):
    dataset = write_face_data_set(str(tmp_path), [10, 40, 3, 25])
    for number, shard in enumerate(dataset.manifest.shards):
        file = pq.ParquetFile(tmp_path / shard.file)
        assert shard.bytes == (tmp_path / shard.file).stat().st_size
        for group in range(file.num_row_groups):
            assert dataset.read(shard=number, row_group=group).equals(file.read_row_group(group))
            part = dataset.read(shard=number, row_group=group, columns=["frame", "landmarks"])
            assert part.equals(file.read_row_group(group, columns=["frame", "landmarks"]))


def test_the_jpeg_column_is_stored_plainly_without_statistics(tmp_path):
    write_face_data_set(str(tmp_path), [10])
    group = pq.read_metadata(tmp_path / "shard-00000.parquet").row_group(0)
    jpeg = next(column for n in range(group.num_columns) if (column := group.column(n)).path_in_schema == "jpeg")
    assert (jpeg.compression, jpeg.has_dictionary_page, jpeg.is_stats_set) == ("UNCOMPRESSED", False, False)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=20), min_size=1, max_size=5),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([0.003, 0.008, 1.0]),
)
def test_runs_are_the_unbroken_stretches_and_never_leave_their_row_group(tmp_path_factory, frames, every, row_group_mb):
    """Compares the index with a plain loop over all frames."""
    folder = tmp_path_factory.mktemp("runs")
    tracks = [make_track(0, 0, number, frames=sorted(numbers), size=16) for number, numbers in enumerate(frames)]
    dataset = write_tracks(str(folder), tracks, size=16, every=every, row_group_mb=row_group_mb)
    stored = [
        (number, group, table["track"][row].as_py(), table["frame"][row].as_py(), row)
        for number, shard in enumerate(dataset.manifest.shards)
        for group in range(len(shard.row_groups))
        for table in [dataset.read(shard=number, row_group=group)]
        for row in range(table.num_rows)
    ]
    expected: list[list[int]] = []
    before = None
    for here in stored:
        unbroken = before is not None and here[:3] == before[:3] and here[3] == before[3] + every
        if not unbroken:
            expected.append([*here, 0])
        expected[-1][-1] += 1
        before = here
    runs = dataset.runs
    actual = zip(runs.shard, runs.row_group, runs.track, runs.first_frame, runs.start, runs.frames, strict=True)
    assert [list(map(int, run)) for run in actual] == expected
    assert sum(len(numbers) for numbers in frames) == runs.frames.sum()


def test_row_groups_keep_to_their_size_and_split_only_long_tracks(tmp_path):
    dataset = write_face_data_set(str(tmp_path), [10, 10, 10, 200, 10], row_group_mb=0.05, shard_mb=1)
    groups = dataset.manifest.shards[0].row_groups
    assert max(group.length for group in groups) < 0.06e6
    assert max(np.bincount(dataset.runs.identity)) > 1, "the long track takes several row groups"
    assert np.bincount(dataset.runs.identity)[[0, 1, 2, 4]].tolist() == [1, 1, 1, 1]


def test_codes_name_persons_and_videos(tmp_path):
    tracks = [make_track(person, video, frames=range(2)) for person in range(2) for video in range(2)]
    runs = write_tracks(str(tmp_path), tracks).runs
    assert runs.identities == ("id00000", "id00001")
    assert [runs.identities[code] for code in runs.identity] == ["id00000", "id00000", "id00001", "id00001"]
    assert [runs.videos[code] for code in runs.video] == ["v0", "v1", "v0", "v1"]
    assert len(set(runs.video.tolist())) == 4, "v0 of one person is not v0 of another"


def test_an_equal_data_set_has_an_equal_fingerprint_and_a_changed_pixel_another(tmp_path):
    first = write_face_data_set(str(tmp_path / "one"), [5, 6])
    second = write_face_data_set(str(tmp_path / "two"), [5, 6])
    tracks = [make_track(0, frames=range(5)), make_track(1, frames=range(6), quality=94)]
    changed = write_tracks(str(tmp_path / "three"), tracks, row_group_mb=0.02, shard_mb=0.1)
    assert first.manifest.fingerprint == second.manifest.fingerprint != changed.manifest.fingerprint


def test_a_margin_is_kept_and_is_none_where_an_earlier_release_wrote_none(tmp_path):
    dataset = write_face_data_set(str(tmp_path / "one"), [5], margin=0.25)
    assert Dataset(dataset.url).manifest.margin == 0.25
    path = tmp_path / "one" / MANIFEST
    fields = json.loads(path.read_text())
    for margin, expected in ((0, 0.0), (None, 0.0)):
        path.write_text(json.dumps({k: v for k, v in (fields | {"margin": margin}).items() if v is not None}))
        assert Dataset(dataset.url).manifest.margin == expected
    path.write_text(json.dumps(fields | {"margin": -0.1}))
    with pytest.raises(DataError, match=r"manifest.json is damaged: margin"):
        Dataset(dataset.url)


def test_data_sets_never_change(tmp_path):
    write_face_data_set(str(tmp_path), [5])
    with pytest.raises(DataError, match="already holds a data set"):
        ShardWriter(str(tmp_path), name="again", image_size=32, fps=25, recipe={})


def test_a_writer_that_fails_leaves_no_data_set_and_no_litter(tmp_path):
    def tracks():
        for person in range(4):
            yield make_track(person, frames=range(20))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_tracks(str(tmp_path), tracks(), shard_mb=0.01)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".parquet"}
    with pytest.raises(DataError, match="is no data set: it has no __facscale__/manifest.json"):
        Dataset(str(tmp_path))
    assert write_face_data_set(str(tmp_path), [5]).manifest.counts["frames"] == 5


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        ([make_track(1, frames=[0]), make_track(0, frames=[0])], "sorted by"),
        ([make_track(0, frames=[0]), make_track(0, frames=[1])], "once"),
        ([pa.concat_tables([make_track(0, frames=[0]), make_track(1, frames=[0])])], "one at a time"),
        ([make_track(0, frames=[3, 2])], "not ascending"),
        ([make_track(0, frames=[0]).drop_columns(["time_s", "jpeg"])], r"without the column\(s\) time_s, jpeg"),
        ([make_track(0, frames=[0], au=3)], "columns do not fit"),
        ([], "not one face track"),
    ],
)
def test_invalid_tracks_are_refused(tmp_path, tracks, message):
    with pytest.raises(DataError, match=message):
        write_tracks(str(tmp_path), tracks, au=(1, 2) if tracks and "au" in tracks[0].column_names else ())


def test_labels_are_needed_with_aus_and_further_columns_are_kept(tmp_path):
    with pytest.raises(DataError, match=r"without the column\(s\) au, intensity"):
        write_tracks(str(tmp_path / "a"), [make_track(0, frames=[0])], au=(1,))
    more = make_track(0, frames=[0, 1]).append_column("blur", pa.array([0.5, 0.25]))
    assert write_tracks(str(tmp_path / "b"), [more]).read_columns(["blur"])["blur"].to_pylist() == [0.5, 0.25]


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_bit_in_a_row_group_is_detected(tmp_path, place):
    dataset = write_face_data_set(str(tmp_path), [20, 20])
    group = dataset.manifest.shards[0].row_groups[1]
    path = tmp_path / dataset.manifest.shards[0].file
    data = bytearray(path.read_bytes())
    data[group.offset + int(place * group.length)] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"corrupt row group 1 of .*shard-00000.parquet"):
        Dataset(str(tmp_path)).read(shard=0, row_group=1)
    first = dataset.manifest.shards[0].row_groups[0]
    assert Dataset(str(tmp_path)).read(shard=0, row_group=0).num_rows == first.rows


def test_a_shard_that_is_cut_off_missing_or_without_a_footer_is_corrupt(tmp_path):
    dataset = write_face_data_set(str(tmp_path), [20, 20])
    path = tmp_path / dataset.manifest.shards[0].file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(CorruptError):
        Dataset(str(tmp_path)).read(shard=0, row_group=1)
    path.write_bytes(data[:-8] + b"nonsense")
    with pytest.raises(CorruptError, match="footer"):
        Dataset(str(tmp_path)).read(shard=0, row_group=1)
    path.unlink()
    for action in (lambda d: d.read(shard=0, row_group=0), lambda d: d.read_columns(["frame"])):
        with pytest.raises(CorruptError, match="missing shard"):
            action(Dataset(str(tmp_path)))


def test_a_damaged_index_or_manifest_is_an_error(tmp_path):
    write_face_data_set(str(tmp_path), [5])
    index, manifest = tmp_path / INDEX, tmp_path / MANIFEST
    good = index.read_bytes()
    index.write_bytes(good[:-30] + bytes(30))
    with pytest.raises(CorruptError, match="corrupt index"):
        _ = Dataset(str(tmp_path)).runs
    text = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(text), "schema": 2}))
    with pytest.raises(DataError, match="written with schema 2, this facscale reads 1"):
        Dataset(str(tmp_path))
    manifest.write_text(text[:100])
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        Dataset(str(tmp_path))


def test_urls_of_one_folder(tmp_path, monkeypatch):
    write_face_data_set(f"file://{tmp_path}/set", [5])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in (f"{tmp_path}/set", f"{tmp_path}/set/", "set", "~/set", f"file://{tmp_path}/set"):
        assert Dataset(url).read_columns(["frame"]).num_rows == 5
    write_face_data_set("memory://somewhere/set", [5])
    assert Dataset("memory://somewhere/set").read(shard=0, row_group=0).num_rows == 5
    with pytest.raises(DataError, match="no file system for nosuch://"):
        Dataset("nosuch://somewhere")


def test_a_pickled_data_set_is_small_and_readable(tmp_path):
    dataset = write_face_data_set(str(tmp_path), [20, 20])
    dataset.read(shard=0, row_group=0)
    _ = dataset.runs
    parcel = pickle.dumps(dataset)
    assert len(parcel) < 5_000
    again = pickle.loads(parcel)
    assert again.read(shard=0, row_group=1).equals(dataset.read(shard=0, row_group=1))
    assert again.manifest == dataset.manifest


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be created"):
        write_face_data_set(f"{tmp_path}/file/set", [5])


def test_a_wrong_step_between_frames_causes_a_warning(tmp_path, caplog):
    write_tracks(str(tmp_path / "a"), [make_track(0, frames=range(0, 20, 2))])
    assert "no two frames are 1 apart, so every run is one frame" in caplog.text
    caplog.clear()
    write_tracks(str(tmp_path / "b"), [make_track(0, frames=range(0, 20, 2))], every=2)
    assert not caplog.text
    assert Path(tmp_path / "b" / MANIFEST).exists()
