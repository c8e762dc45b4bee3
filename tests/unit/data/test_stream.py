"""The stream: the right pixels in the right order, for any number of workers and with any data damaged."""

from __future__ import annotations

import collections
import functools
import gc
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faces import make_track, write_face_data_set, write_tracks
from facscale.data import DataError, Dataset, Stream, augment, decoding
from facscale.data.errors import ReaderDiedError
from facscale.data.feed import BatchFeed
from facscale.data.manifest import MANIFEST
from facscale.data.views import FrameSequence, FrameTriple, RandomFrames
from facscale.spec import models

LENGTHS = [7, 12, 3, 30, 9, 14, 8, 21, 5, 11]
EVERY_FRAME = {"samples_per": "frame"}
CLIP = {
    "clip": FrameSequence(length=3, stride=2, columns=("frame", "landmarks")),
    "faces": RandomFrames(count=2, views=2, shared=True),
}
FACE = {"face": RandomFrames(count=1, columns=("frame", "track", "au"))}


def make(dataset, views=CLIP, *, batch_size=6, seed=3, rank=0, world=1, subjects=None, **options) -> Stream:
    spec = models.Data(**{"canonical_streams": 3, "shuffle_block": 2, "threads": 2, "prefetch": 2, **options})
    sets = dataset if isinstance(dataset, list) else [dataset]
    by_url = subjects and {data.url: subjects for data in sets}
    return Stream(sets, views, spec=spec, batch_size=batch_size, seed=seed, rank=rank, world=world, subjects=by_url)


def take(stream: Stream, count: int, *, start: int = 0) -> list:
    batches = stream.batches(start=start)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def by_position(streams: list[Stream], count: int, *, start: int = 0) -> list[tuple]:
    """The full content of each sample, in global order, collected from all workers."""
    world = len(streams)
    parts = [take(stream, count, start=start) for stream in streams]
    share = streams[0].batch_size // world
    samples = {}
    for rank, batches in enumerate(parts):
        first = start + (rank - start) % world
        for number, batch in enumerate(batches):
            for place in range(share):
                position = first + (number * share + place) * world
                samples[position] = tuple(content(faces, place) for faces in batch.values())
    return [samples[position] for position in sorted(samples)]


def content(faces, place: int) -> tuple:
    columns = {name: values[place].numpy().tobytes() for name, values in faces.columns.items()}
    return (
        faces.images[place].numpy().tobytes(),
        int(faces.identity[place]),
        faces.augmentation[place].numpy().tobytes(),
        columns,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return write_face_data_set(str(tmp_path_factory.mktemp("faces")), LENGTHS, size=16, au=(1, 2), row_group_mb=0.025)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Dataset:
    """Four people with one to three videos of one to three tracks, of which row groups cut the long ones."""
    counts = [(1,), (3, 1), (1, 2, 2), (2,)]
    keys = [
        (person, video, n)
        for person, videos in enumerate(counts)
        for video, number in enumerate(videos)
        for n in range(number)
    ]
    tracks = (make_track(*key, frames=range(7 + 11 * (sum(key) % 4)), size=16) for key in keys)
    dataset = write_tracks(str(tmp_path_factory.mktemp("archive")), tracks, size=16, row_group_mb=0.02, shard_mb=0.1)
    assert len(dataset.runs) > len(keys) == dataset.manifest.counts["tracks"], "no track is cut"
    return dataset


SAMPLINGS = [
    ("frame", 1),
    *((unit, count) for unit in ("identity", "video", "track") for count in (1, 2)),
    ("identity", 8),
]


@functools.cache
def reference(url: str, samples_per: str, count: int) -> list[tuple]:
    return by_position([make(Dataset(url), epoch={"samples_per": samples_per, "count": count})], 40)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_killed_and_resumed_on_any_number_of_workers_gives_the_same_samples(archive, data):
    """Cursor and world change at every kill; the result equals the uninterrupted stream of a single worker bit by bit."""
    dataset, sampling = archive, data.draw(st.sampled_from(SAMPLINGS), label="sampling")
    expected = reference(dataset.url, *sampling)
    epoch = dict(zip(("samples_per", "count"), sampling, strict=True))
    cursor, got = 0, []
    while cursor < 100:
        world = data.draw(st.sampled_from([1, 2, 3, 4]), label="world")
        batch = world * data.draw(st.integers(1, 4), label="samples of a worker's batch")
        count = data.draw(st.integers(1, 6), label="batches before the kill")
        streams = [
            make(dataset, batch_size=batch, rank=rank, world=world, epoch=epoch, threads=world, prefetch=world)
            for rank in range(world)
        ]
        got += by_position(streams, count, start=cursor)
        cursor += batch * count
    assert len(got) == cursor
    for position, (ours, theirs) in enumerate(zip(got, expected, strict=False)):
        assert ours == theirs, f"position {position}"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 50), st.sampled_from([1, 2, 3]))
def test_every_frame_of_an_epoch_is_seen_once(dataset, seed, epoch, world):
    """With single frames and "samples_per: frame", an epoch contains each stored picture once."""
    stored = sorted(
        simplejpeg.decode_jpeg(jpeg).tobytes() for jpeg in dataset.read_columns(["jpeg"])["jpeg"].to_pylist()
    )
    total = sum(LENGTHS)
    batch = 12
    assert total % batch == 0
    seen = []
    for rank in range(world):
        stream = make(dataset, FACE, epoch=EVERY_FRAME, batch_size=batch, seed=seed, rank=rank, world=world)
        assert stream.samples_per_epoch == total
        for got in take(stream, total // batch, start=epoch * total):
            seen += [image.tobytes() for image in got.face.images.numpy()]
    assert sorted(seen) == stored


@pytest.mark.parametrize(
    ("samples_per", "count", "expected"), [("identity", 1, 4), ("identity", 8, 32), ("video", 1, 7), ("track", 2, 24)]
)
@pytest.mark.parametrize("world", [1, 3])
def test_an_epoch_holds_as_many_samples_as_the_spec_says(archive, samples_per, count, expected, world):
    """Of each identity, video or track the same number, in every epoch; also where a row group cuts a track."""
    names = {"identity": ("identity",), "video": ("identity", "video"), "track": ("identity", "video", "track")}[
        samples_per
    ]
    views = {"face": FrameSequence(length=3, columns=("frame", "track"))}
    stored = archive.read_columns(["identity", "video", "track", "frame", "jpeg"]).to_pylist()
    units = {simplejpeg.decode_jpeg(row["jpeg"]).tobytes(): tuple(row[name] for name in names) for row in stored}
    batch = {1: expected, 3: expected * 3}[world]
    streams = [
        make(
            archive, views, epoch={"samples_per": samples_per, "count": count}, batch_size=batch, rank=rank, world=world
        )
        for rank in range(world)
    ]
    assert streams[0].samples_per_epoch == expected
    assert (
        0
        < streams[0].compute_bytes_per_epoch()
        <= sum(group.length for shard in archive.manifest.shards for group in shard.row_groups)
    )
    seen = [units[images[0].tobytes()] for s in streams for images in take(s, 1)[0].face.images.numpy()]
    assert collections.Counter(seen) == dict.fromkeys(units.values(), count * world)


def test_frames_are_those_that_the_view_chooses(dataset):
    """Each delivered picture equals the stored frame with the delivered number."""
    table = dataset.read_columns(["identity", "frame", "jpeg", "landmarks"])
    stored = {
        (person, frame): (simplejpeg.decode_jpeg(jpeg), np.array(points, np.float32))
        for person, frame, jpeg, points in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    }
    for batch in take(make(dataset), 4):
        clip = batch.clip
        assert clip.images.shape == (6, 3, 16, 16, 3)
        assert clip.images.dtype == torch.uint8
        assert clip.landmarks.shape == (6, 3, 136)
        assert np.all(np.diff(clip.frame.numpy(), axis=1) == 2)
        for sample, place in np.ndindex(6, 3):
            key = (dataset.runs.identities[int(clip.identity[sample])], int(clip.frame[sample, place]))
            np.testing.assert_array_equal(clip.images[sample, place].numpy(), stored[key][0])
            np.testing.assert_array_equal(clip.landmarks[sample, place].numpy(), stored[key][1])


def test_views_of_a_sample_come_from_one_run_and_shared_augmentation_is_shared(dataset):
    batch = take(make(dataset), 1)[0]
    assert batch.clip.identity.tolist() == batch.faces.identity.tolist()
    clip, faces = batch.clip.augmentation.numpy(), batch.faces.augmentation.numpy()
    assert clip.shape == (6, 3, 1, len(augment.PARAMETERS))
    assert faces.shape == (6, 2, 2, len(augment.PARAMETERS))
    assert not np.any(np.all(clip[:, 0] == clip[:, 1], axis=-1)), "each frame has its own"
    np.testing.assert_array_equal(faces[:, 0], faces[:, 1])
    assert not np.any(np.all(faces[:, 0, 0] == faces[:, 0, 1], axis=-1)), "each copy has its own"


def test_augmentation_follows_the_spec(dataset):
    quiet = models.Augment(rotation=0, flip=0, brightness=0, contrast=0, saturation=0, crop=(0.9, 0.9))
    drawn = take(make(dataset, augment=quiet), 1)[0].clip.augmentation.numpy()
    np.testing.assert_allclose(drawn[..., :7], np.broadcast_to([0, 0, 1, 1, 1, 0, 0.9], (6, 3, 1, 7)), rtol=1e-6)


def test_a_triple_at_the_ends_of_a_run_repeats_its_own_frame(tmp_path):
    """Also where a row group cuts the track: what is on the other side is not read."""
    dataset = write_face_data_set(str(tmp_path), [30] * 2, size=16, row_group_mb=0.025)
    runs = dataset.runs
    assert len(runs) > 2
    spans = {
        (int(i), f): (a, a + n)
        for i, a, n in zip(runs.identity, runs.first_frame, runs.frames, strict=True)
        for f in range(a, a + n)
    }
    triple = {"t": FrameTriple(interval=4, aligned=True, columns=("frame",))}
    (batch,) = take(make(dataset, triple, epoch=EVERY_FRAME, batch_size=60), 1)
    assert batch.t.is_aligned
    assert batch.t.landmarks.shape == (60, 3, 136)
    for person, (before, now, after) in zip(batch.t.identity.tolist(), batch.t.frame.tolist(), strict=True):
        first, end = spans[person, now]
        assert before == (now - 4 if now - 4 >= first else now)
        assert after == (now + 4 if now + 4 < end else now)


def test_two_data_sets_keep_their_identities_apart(tmp_path):
    sets = [write_face_data_set(str(tmp_path / name), [9, 9, 9]) for name in ("a", "b")]
    stream = make(sets, FACE_ONLY)
    seen = torch.cat([batch.face.identity for batch in take(stream, stream.samples_per_epoch // 6)])
    assert sorted(seen.tolist()) == [0, 1, 2, 3, 4, 5]


FACE_ONLY = {"face": RandomFrames(count=1)}


def test_only_the_selected_subjects_are_read(dataset):
    stream = make(dataset, FACE, subjects=["id00003", "id00005"], epoch=EVERY_FRAME, batch_size=4)
    assert stream.samples_per_epoch == LENGTHS[3] + LENGTHS[5]
    seen = torch.cat([batch.face.identity for batch in take(stream, 11)])
    assert set(seen.tolist()) == {3, 5}
    total = sum(group.length for shard in dataset.manifest.shards for group in shard.row_groups)
    everybody = make(dataset, FACE, epoch=EVERY_FRAME).compute_bytes_per_epoch()
    assert 0 < stream.compute_bytes_per_epoch() < total == everybody


@pytest.fixture
def two_sets(tmp_path):
    """Two data sets with the same identity names and overlapping AUs: AU1 and AU12; AU12, AU4 and AU1."""
    lengths = [6, 5, 7]
    first = write_face_data_set(str(tmp_path / "one"), lengths, au=(1, 12))
    return [first, write_face_data_set(str(tmp_path / "other"), lengths, au=(12, 4, 1))]


def test_sets_with_different_aus_are_read_as_one(two_sets):
    views = {"face": RandomFrames(columns=("au", "intensity", "frame", "data_set"))}
    stream = make(two_sets, views, epoch=EVERY_FRAME, batch_size=6)
    assert stream.aus == (1, 12, 4)
    seen = set()
    for batch in take(stream, 6):
        face = batch.face
        assert face.au.shape == face.intensity.shape == (6, 1, 3)
        for number in range(6):
            set_number, frame, person = int(face.data_set[number]), int(face.frame[number]), int(face.identity[number])
            stored = two_sets[set_number].read_columns(["identity", "frame", "au", "intensity"]).to_pylist()
            name = f"id{person - 3 * set_number:05d}"
            row = next(row for row in stored if (row["identity"], row["frame"]) == (name, frame))
            aus = two_sets[set_number].manifest.au
            for column, values in (("au", face.au), ("intensity", face.intensity)):
                expected = [row[column][aus.index(au)] if au in aus else -1 for au in (1, 12, 4)]
                assert values[number, 0].tolist() == expected
            seen.add((set_number, name, frame))
    assert len(seen) == 36


def test_subjects_with_the_same_name_are_selected_by_data_set(two_sets):
    by_url = {two_sets[0].url: ["id00000"], two_sets[1].url: ["id00002"]}
    spec = models.Data(epoch=EVERY_FRAME, canonical_streams=2, threads=1)
    views = {"face": RandomFrames(columns=("data_set",))}
    stream = Stream(two_sets, views, spec=spec, batch_size=13, seed=0, subjects=by_url)
    assert stream.samples_per_epoch == 13
    (batch,) = take(stream, 1)
    people = set(zip(batch.face.data_set[:, 0].tolist(), batch.face.identity.tolist(), strict=True))
    assert people == {(0, 0), (1, 5)}


def test_a_view_without_pixels_decodes_nothing(dataset, monkeypatch):
    views = {"face": RandomFrames(columns=("au", "frame"), pixels=False)}
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_into", lambda *_: pytest.fail("decoded"))
        (batch,) = take(make(dataset, views), 1)
    assert batch.face.images.shape == (6, 1, 0, 0, 3)
    prepared = augment.Augmenter(size=16)(batch).face
    assert prepared.images.shape == (6, 1, 1, 3, 0, 0)
    (seen,) = take(make(dataset, FACE), 1)
    torch.testing.assert_close(prepared.au, seen.face.au)
    torch.testing.assert_close(prepared.frame, seen.face.frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": {"clip": FrameSequence(length=40)}}, "needs 40 unbroken frames, the longest run has"),
        ({"views": {"face": RandomFrames(columns=("nothing",))}}, "has no column 'nothing': it has identity, video"),
        (
            {"views": {"face": RandomFrames(columns=("identity",))}},
            "column 'identity' is string; a view can deliver numbers only",
        ),
        ({"batch_size": 7, "world": 2}, "cannot be shared by 2 workers"),
        ({"subjects": ["nobody"]}, "belongs to the 1 selected identities"),
        ({"views": {}}, "at least one data set and one view"),
    ],
)
def test_views_that_the_data_cannot_provide_are_refused_at_once(dataset, change, message):
    with pytest.raises(DataError, match=message):
        make(dataset, **change)


def test_unlabelled_or_differently_sized_data_sets_are_refused(tmp_path, dataset):
    bare = write_face_data_set(str(tmp_path / "bare"), [9], size=16)
    with pytest.raises(DataError, match="has no column 'au': it has no labels"):
        make(bare, FACE)
    large = write_face_data_set(str(tmp_path / "large"), [9], size=24)
    with pytest.raises(DataError, match=r"crops of one size and margin .*16 px.*24 px"):
        make([dataset, large])


def test_crops_with_a_margin_are_read_alone_and_only_as_far_as_they_reach(tmp_path, dataset):
    wide = write_face_data_set(str(tmp_path / "wide"), [9], size=16, margin=0.25, au=(1,))
    with pytest.raises(DataError, match=r"one size and margin .*margin 0.*margin 0.25"):
        make([dataset, wide])
    reach = {"crop": (0.9, 1.4), "shift": 0.05}
    drawn = take(make(wide, FACE, augment=reach, batch_size=1), 1)[0].face.augmentation[..., 6:10]
    assert (drawn[..., :2] <= 1.4 / 1.5 + 1e-6).all()
    assert (drawn[..., 2:].abs() <= 0.05 / 1.5 + 1e-6).all()
    with pytest.raises(DataError, match=r"shows up to 1.6 times .* end at 1.5 times"):
        make(wide, FACE, augment={"crop": (0.9, 1.6)})
    make(wide, {"label": RandomFrames(columns=("au",), pixels=False)}, augment={"crop": (0.9, 1.6)})


# Damaged data


def damaged(folder, *, bad: set[tuple[int, int]], lengths=LENGTHS) -> Dataset:
    """A data set in which the (identity, frame) pairs `bad` hold no valid JPEG, with correct checksums."""

    def spoiled(person: int, length: int):
        rows = make_track(person, frames=range(length), size=16)
        jpegs = rows["jpeg"].to_pylist()
        jpegs = [jpeg[:60] if (person, frame) in bad else jpeg for frame, jpeg in enumerate(jpegs)]
        return rows.set_column(rows.column_names.index("jpeg"), "jpeg", [jpegs])

    tracks = (spoiled(person, length) for person, length in enumerate(lengths))
    return write_tracks(str(folder), tracks, size=16, row_group_mb=0.03, shard_mb=0.1)


def test_a_bad_frame_is_replaced_by_the_next_good_one_or_the_one_before(tmp_path, caplog):
    bad = {(0, 2), (0, 3), (1, 11), (3, 0)}
    dataset = damaged(tmp_path, bad=bad)
    frames = {"face": RandomFrames(count=1, columns=("frame",))}
    stream = make(dataset, frames, epoch=EVERY_FRAME, max_bad=0.1, batch_size=12)
    seen = []
    for batch in take(stream, 10):
        for image, person, frame in zip(batch.face.images, batch.face.identity, batch.face.frame, strict=True):
            seen.append((int(person), int(frame)))
            rows = make_track(int(person), frames=[int(frame)], size=16)
            np.testing.assert_array_equal(image[0], simplejpeg.decode_jpeg(rows["jpeg"][0].as_py()))
    assert sorted(seen) == sorted(
        {(0, 2): (0, 4), (0, 3): (0, 4), (1, 11): (1, 10), (3, 0): (3, 1)}.get(key, key)
        for key in ((person, frame) for person, length in enumerate(LENGTHS) for frame in range(length))
    )
    assert len(stream.skipped) == len(bad)
    assert all(skipped.row is not None and "not decodable" in skipped.reason for skipped in stream.skipped)
    assert caplog.text.count("skipped") >= len(bad)


def remove_frame_tables(dataset: Dataset) -> Dataset:
    """The data set as an earlier release would have described it."""
    path = dataset.folder.path / MANIFEST
    manifest = json.loads(path.read_text())
    for shard in manifest["shards"]:
        for group in shard["row_groups"]:
            del group["frame_table"]
    path.write_text(json.dumps(manifest))
    return Dataset(dataset.url)


def broken_group(folder) -> tuple[Dataset, set[int]]:
    """A data set of an earlier release with one corrupt row group, and the identities all of whose frames lie in it."""
    dataset = remove_frame_tables(damaged(folder, bad={(4, 3)}, lengths=LENGTHS * 2))
    shard = dataset.manifest.shards[1]
    path = folder / shard.file
    data = bytearray(path.read_bytes())
    data[shard.row_groups[0].offset + 9] ^= 255
    path.write_bytes(data)
    lost = (dataset.runs.shard == 1) & (dataset.runs.row_group == 0)
    return dataset, set(dataset.runs.identity[lost].tolist()) - set(dataset.runs.identity[~lost].tolist())


def test_samples_of_a_corrupt_row_group_are_replaced_alike_for_any_number_of_workers(tmp_path):
    dataset, lost = broken_group(tmp_path)
    assert lost
    alone = make(dataset, max_bad=0.5, batch_size=12)
    expected = by_position([alone], 5)
    assert len(expected) == 60
    assert not lost & {identity for sample in expected for _, identity, _, _ in sample}
    shard = dataset.manifest.shards[1].file
    assert [(s.shard, s.row_group) for s in alone.skipped if s.row is None] == [(shard, 0)], (
        "noted once, over several epochs"
    )
    for world in (2, 3, 4):
        assert (
            by_position([make(dataset, max_bad=0.5, batch_size=12, rank=r, world=world) for r in range(world)], 5)
            == expected
        )


@pytest.mark.parametrize("views", [CLIP, FACE_ONLY])
def test_a_data_set_of_an_earlier_release_gives_the_same_samples(tmp_path, views):
    dataset = write_face_data_set(str(tmp_path), LENGTHS, size=16, row_group_mb=0.025)
    assert all(group.frame_table for shard in dataset.manifest.shards for group in shard.row_groups)
    expected = by_position([make(dataset, views)], 10)
    old = remove_frame_tables(dataset)
    assert not old.manifest.shards[0].row_groups[0].frame_table
    assert by_position([make(old, views)], 10) == expected


def test_a_damaged_byte_loses_one_frame_alike_for_any_number_of_workers(tmp_path):
    """Whether its row group is read as a whole (one worker) or by single frames (four)."""
    dataset = write_face_data_set(str(tmp_path), LENGTHS * 2, size=16, row_group_mb=0.025)
    table, shard = dataset.fetch_frame_table(shard=1, row_group=0), dataset.manifest.shards[1]
    path = tmp_path / shard.file
    data = bytearray(path.read_bytes())
    data[shard.row_groups[0].offset + int(table.ends[5]) - 9] ^= 255
    path.write_bytes(data)
    streams = {
        world: [make(dataset, FACE_ONLY, epoch=EVERY_FRAME, batch_size=12, rank=r, world=world) for r in range(world)]
        for world in (1, 2, 4)
    }
    for stream in itertools.chain.from_iterable(streams.values()):
        stream.failure_log.max_share = 1.0
    frames = {world: by_position(streams[world], 20) for world in streams}
    assert frames[1] == frames[2] == frames[4]
    for workers in streams.values():
        faults = [(s.shard, s.row_group, s.row, s.reason) for stream in workers for s in stream.skipped]
        assert faults == [(shard.file, 0, 5, "not decodable: its bytes are damaged or missing")]


def test_a_damaged_frame_table_costs_nothing_but_reading_the_row_group(tmp_path):
    dataset = write_face_data_set(str(tmp_path), LENGTHS, size=16, row_group_mb=0.025)
    expected = by_position([make(dataset)], 10)
    for shard in dataset.manifest.shards:
        path = tmp_path / shard.file
        data = bytearray(path.read_bytes())
        for group in shard.row_groups:
            data[group.end - 1] ^= 1
        path.write_bytes(data)
    damaged_tables = make(dataset)
    assert by_position([damaged_tables], 10) == expected
    assert not damaged_tables.skipped


@pytest.mark.parametrize("is_old", [False, True])
def test_a_store_that_fsspec_reads_gives_the_same_samples_through_the_cache(tmp_path, is_old):
    """With stored columns, some of which the cache has and some not; twice, for the second time finds all of it."""
    options = {"size": 16, "au": (1, 2), "row_group_mb": 0.025}
    local = write_face_data_set(str(tmp_path / "faces"), LENGTHS, **options)
    expected = by_position([make(local)], 12)
    remote = write_face_data_set(f"memory://stream-{is_old}", LENGTHS, **options)
    assert not remote.folder.is_local
    if is_old:
        shards = [
            replace(s, row_groups=tuple(replace(g, frame_table="") for g in s.row_groups))
            for s in remote.manifest.shards
        ]
        remote.manifest = replace(remote.manifest, shards=tuple(shards))
    read = []
    for _ in range(2):
        stream = make(remote, cache=str(tmp_path / "cache"), cache_gb=0.01)
        assert by_position([stream], 12) == expected
        assert not stream.skipped
        read.append(stream.traffic.read_bytes)
    assert read[1] < read[0] / 10, "the second pass finds all of it in the cache"


def test_few_frames_of_a_row_group_are_read_by_themselves(tmp_path):
    """CLP's sampling: at most half as much again is read as is used, frame tables included."""
    dataset = write_face_data_set(str(tmp_path), [150] * 12, size=64, row_group_mb=0.5, shard_mb=2)
    views = {"clip": FrameSequence(length=9, stride=2), "faces": RandomFrames(count=2)}
    epoch = {"samples_per": "identity", "count": 1}
    stream = make(dataset, views, epoch=epoch, batch_size=4)
    take(stream, 6)
    assert 0 < stream.traffic.read_bytes <= 1.7 * stream.traffic.used_bytes
    assert stream.traffic.requests >= 12
    old = make(remove_frame_tables(dataset), views, epoch=epoch, batch_size=4)
    take(old, 6)
    assert old.traffic.read_bytes > 3 * stream.traffic.read_bytes


def test_too_many_failures_end_the_stream_and_its_threads(tmp_path):
    dataset, _ = broken_group(tmp_path)
    frames = dataset.manifest.shards[1].row_groups[0].rows  # and one bad frame elsewhere
    batches = make(dataset, max_bad=(frames - 0.5) / dataset.manifest.counts["frames"]).batches()
    with pytest.raises(
        DataError, match=rf"(?:{frames}|{frames + 1}) of 240 frames cannot be read, more than data.max_bad .* allows"
    ):
        collections.deque(itertools.islice(batches, 40), maxlen=0)
    assert not _threads()


def test_a_data_set_without_readable_samples_is_an_error_and_not_an_endless_search(tmp_path):
    dataset = damaged(tmp_path, bad={(person, frame) for person in range(3) for frame in range(9)}, lengths=[9] * 3)
    with pytest.raises(DataError, match="not one sample can be read"):
        take(make(dataset, max_bad=1.0), 1)
    for shard in tmp_path.glob("*.parquet"):
        if shard.name != "index.parquet":
            shard.unlink()
    with pytest.raises(DataError, match="missing shard|not one sample"):
        take(make(Dataset(str(tmp_path)), FACE_ONLY, max_bad=1.0), 1)


def test_images_of_another_size_are_bad_frames(tmp_path):
    odd = make_track(1, frames=range(5), size=20)
    dataset = write_tracks(
        str(tmp_path), [make_track(0, frames=range(9), size=16), odd, make_track(2, frames=range(9), size=16)], size=16
    )
    stream = make(dataset, FACE_ONLY, epoch=EVERY_FRAME, max_bad=0.9, batch_size=23)
    take(stream, 1)
    assert len(stream.skipped) == 5


def test_failures_in_threads_reach_the_consumer(dataset, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in a decoding thread")

    monkeypatch.setattr(decoding, "decode_into", broken)
    with pytest.raises(ZeroDivisionError, match="in a decoding thread"):
        take(make(dataset), 1)
    assert not _threads()


# Threads and memory


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("facscale")]


def test_closing_or_dropping_the_generator_ends_its_threads(dataset):
    batches = make(dataset).batches()
    next(batches)
    assert _threads()
    batches.close()
    assert not _threads()
    batches = make(dataset).batches()
    next(batches)
    del batches
    gc.collect()
    assert not _threads()


def test_a_batch_that_is_kept_is_never_written_again(dataset):
    batches = make(dataset).batches()
    kept = [next(batches) for _ in range(3)]
    copies = [batch.clip.images.clone() for batch in kept]
    slices = [next(batches).clip.images[0] for _ in range(3)]  # a slice keeps its batch, too
    slice_copies = [piece.clone() for piece in slices]
    for _ in range(12):
        next(batches)
    batches.close()
    assert all(torch.equal(batch.clip.images, copy) for batch, copy in zip(kept, copies, strict=True))
    assert all(torch.equal(piece, copy) for piece, copy in zip(slices, slice_copies, strict=True))


def test_buffers_are_used_again(dataset):
    batches = make(dataset).batches()
    places = [next(batches).clip.images.data_ptr() for _ in range(30)]
    batches.close()
    assert len(set(places)) < 10


def test_no_more_batches_are_prepared_than_requested(dataset, monkeypatch):
    prepared = []
    original = decoding.BatchDecoder.fill

    def counted(self, batch, slots):
        prepared.append(id(batch))
        original(self, batch, slots)

    monkeypatch.setattr(decoding.BatchDecoder, "fill", counted)
    batches = make(dataset, prefetch=3).batches()
    held = [next(batches) for _ in range(4)]
    batches.close()
    assert len(held) <= len(set(prepared)) <= len(held) + 3


def test_rows_that_are_not_needed_are_not_kept_in_memory(tmp_path, monkeypatch):
    """Of a sample of a long track only its two frames are kept in memory, not the track."""
    from facscale.data import rows

    kept = []
    original = rows.Rows.__init__

    def spy(self, jpegs, **options):
        original(self, jpegs, **options)
        kept.append(len(jpegs))

    monkeypatch.setattr(rows.Rows, "__init__", spy)
    dataset = write_face_data_set(str(tmp_path), [200] * 2, row_group_mb=1)
    for stored in (dataset, remove_frame_tables(dataset)):
        take(make(stored, {"faces": RandomFrames(count=2)}, batch_size=2), 1)
    assert set(kept) <= {2, 4}


# A process of its own


def test_a_reader_process_gives_the_batches_and_the_failures_of_threads(tmp_path, caplog):
    """From the middle of an epoch, as one of two workers; a bad frame, a lost row group, and batches that are kept."""
    dataset, _ = broken_group(tmp_path)
    place = {"start": 6, "count": 14}
    options = {"rank": 1, "world": 2, "max_bad": 0.5, "prefetch": 1}
    threads = make(dataset, **options)
    expected = take(threads, **place)
    expected_log = caplog.text.count("skipped")
    caplog.clear()
    stream = make(dataset, **options, reader="process")
    batches = take(stream, **place)
    for batch, wanted in zip(batches, expected, strict=True):
        assert [content(batch[name], n) for name in CLIP for n in range(3)] == [
            content(wanted[name], n) for name in CLIP for n in range(3)
        ]
    failures = {(failure.shard, failure.row_group, failure.row) for failure in stream.skipped}
    assert {(failure.shard, failure.row_group, failure.row) for failure in threads.skipped} <= failures
    assert caplog.text.count("skipped") >= expected_log > 0
    assert stream.traffic.used_bytes > 0.5 * threads.traffic.used_bytes


def find_readers(trainer):
    """The readers that a process has; other tests may have left other children."""
    return [child for child in trainer.children() if any("reader_process" in word for word in child.cmdline())]


def test_a_reader_that_is_killed_is_one_error_and_its_memory_is_used_again(dataset):
    batches = make(dataset, reader="process").batches()
    next(batches)
    places = {next(batches).clip.images.data_ptr() for _ in range(20)}
    assert len(places) < 8
    (reader,) = find_readers(psutil.Process())
    kept = next(batches)
    copy = kept.clip.images.clone()
    reader.kill()
    with pytest.raises(ReaderDiedError, match=rf"reads {dataset.url} for worker 0 was ended by SIGKILL"):
        collections.deque(batches, maxlen=0)
    assert not find_readers(psutil.Process())
    assert torch.equal(kept.clip.images, copy)


def test_a_short_reading_starts_no_process(dataset):
    spec = models.Data(canonical_streams=3, shuffle_block=2, threads=2, reader="process")
    short = pickle.loads(pickle.dumps(Stream([dataset], FACE, spec=spec, batch_size=6, seed=3, is_short=True)))
    batches = short.batches()
    next(batches)
    assert not find_readers(psutil.Process())
    batches.close()


def test_what_ends_a_stream_in_its_reader_ends_it_in_the_trainer(tmp_path):
    dataset = damaged(tmp_path, bad={(0, frame) for frame in range(7)})
    with pytest.raises(DataError, match="frames cannot be read, more than data.max_bad .* allows"):
        take(make(dataset, reader="process", max_bad=0.01), 20)
    assert not find_readers(psutil.Process())


TRAINER = """
import pickle, sys, time
stream = pickle.loads(bytes.fromhex(sys.argv[1]))
batches = stream.batches()
next(batches)
print("reads", flush=True)
time.sleep(600)
"""


def test_a_reader_ends_when_its_trainer_is_killed(dataset):
    """What both share has no name, so that nothing can be left of it."""
    command = [sys.executable, "-c", TRAINER, pickle.dumps(make(dataset, reader="process")).hex()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as trainer:
        try:
            assert trainer.stdout.readline() == b"reads\n"
            (reader,) = find_readers(psutil.Process(trainer.pid))
            shared = {entry.path for entry in reader.memory_maps() if "facscale" in entry.path}
        finally:
            trainer.kill()
    assert shared == {"/memfd:facscale-batch"}
    assert psutil.wait_procs([reader], timeout=10)[1] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_memory_that_the_gpu_still_copies_from_is_not_written_again(dataset):
    """The loop drops each batch at once, while the GPU, busy with other work, has not copied it yet."""
    spec = models.Data(canonical_streams=3, shuffle_block=2, threads=2, prefetch=1, reader="process")
    batches = Stream([dataset], CLIP, spec=spec, batch_size=6, seed=3, pin=True).batches()
    device, copies = torch.device("cuda"), []

    def prepare(batch):
        assert batch.clip.images.is_pinned()
        torch.cuda._sleep(50_000_000)
        return batch.to(device)

    feed = BatchFeed(batches, prepare=prepare, device=device)
    copies = [next(feed).clip.images for _ in range(20)]
    batches.close()
    for copy, plain in zip(copies, take(make(dataset), 20), strict=True):
        assert torch.equal(copy.cpu(), plain.clip.images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_pinned_batches_are_the_same_batches(dataset):
    spec = models.Data(canonical_streams=3, shuffle_block=2, threads=2, prefetch=2)
    pinned = Stream([dataset], CLIP, spec=spec, batch_size=6, seed=3, pin=True)
    for ours, plain in zip(take(pinned, 5), take(make(dataset), 5), strict=True):
        assert ours.clip.images.is_pinned()
        assert torch.equal(ours.clip.images, plain.clip.images)
        there = ours.to(torch.device("cuda"))
        assert torch.equal(there.clip.images.cpu(), plain.clip.images)


def test_the_side_of_the_crop_can_be_drawn_once_for_an_epoch(tmp_path):
    """Positions stay those of each image; two workers and a resumed stream draw the same sides."""
    dataset = write_face_data_set(str(tmp_path), [20] * 4)
    views = {"pair": RandomFrames(count=2)}
    width, x = (augment.PARAMETERS.index(name) for name in ("crop width", "crop x"))

    def draw(crop_per, *, start=0, **options):
        spec = models.Data(threads=1, prefetch=1, augment=models.Augment(crop=(0.5, 0.9), crop_per=crop_per))
        stream = Stream([dataset], views, spec=spec, batch_size=2, seed=3, **options)
        batches = stream.batches(start=start)
        try:
            return torch.stack([next(batches).pair.augmentation for _ in range(6)])[..., 0, :]
        finally:
            batches.close()

    per_epoch, per_image = draw("epoch"), draw("image")  # 6 batches of 2 samples: three epochs of 4 people
    sides = per_epoch[..., width].view(3, -1)
    assert (sides == sides[:, :1]).all()
    assert len(sides[:, 0].unique()) == 3
    assert len(per_image[..., width].unique()) == 24
    assert len(per_epoch[..., x].unique()) == 24
    torch.testing.assert_close(per_epoch[..., :6], per_image[..., :6])
    assert torch.equal(draw("epoch", start=4)[:4], per_epoch[2:])
    workers = torch.cat([draw("epoch", rank=rank, world=2) for rank in range(2)], 1)
    assert torch.equal(workers[..., width].view(3, -1)[:, 0], sides[:, 0])


def test_the_files_are_untouched(tmp_path):
    dataset = write_face_data_set(str(tmp_path), LENGTHS)

    def read_files():
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}

    before = read_files()
    take(make(dataset), 10)
    assert read_files() == before
    assert pq.read_metadata(tmp_path / "shard-00000.parquet").num_rows > 0
