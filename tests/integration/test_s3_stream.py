"""Data sets on a real S3 server: written, streamed, through the cache, and while the server fails."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from faces import make_track, write_face_data_set, write_tracks
from facscale.data import CorruptError, DataError, Dataset, Stream, storage
from facscale.data.errors import StoreError
from facscale.data.views import FrameSequence, RandomFrames
from facscale.spec import models
from s3 import S3Server

pytestmark = pytest.mark.slow("an S3 server, and clips over it")

LENGTHS = [7, 12, 3, 30, 9, 14, 8, 21]


def stream(dataset: Dataset, cache: object, **options: object) -> Stream:
    spec = models.Data(
        epoch={"samples_per": "frame"}, canonical_streams=4, threads=2, cache=str(cache), prefetch=2, **options
    )
    return Stream([dataset], {"face": RandomFrames(count=1, views=1)}, spec=spec, batch_size=4, seed=3)


def take(stream: Stream, count: int) -> list[np.ndarray]:
    batches = stream.batches()
    try:
        return [next(batches).face.images.numpy().copy() for _ in range(count)]
    finally:
        batches.close()


def test_the_same_data_set_on_s3_and_on_disk_gives_the_same_pixels(s3_bucket, tmp_path):
    remote = write_face_data_set(f"{s3_bucket}/faces", LENGTHS)
    local = write_face_data_set(str(tmp_path / "faces"), LENGTHS)
    assert remote.manifest == local.manifest
    assert remote.read_columns(["identity", "frame"]).equals(local.read_columns(["identity", "frame"]))
    np.testing.assert_array_equal(
        take(stream(remote, tmp_path / "cache"), 40), take(stream(local, tmp_path / "none"), 40)
    )
    assert not (tmp_path / "none").exists(), "local row groups are read in place"


def test_row_groups_come_from_the_cache_the_second_time(s3_bucket, s3_server, tmp_path):
    dataset = write_face_data_set(f"{s3_bucket}/faces", LENGTHS)
    first = take(stream(dataset, tmp_path / "cache"), 26)
    name = dataset.manifest.shards[0].file
    client = s3_server.filesystem()
    for shard in dataset.manifest.shards:  # nobody can read the row groups from there any more
        client.delete_file(f"{s3_bucket.removeprefix('s3://')}/faces/{shard.file}")
    with pytest.raises(CorruptError, match=name):
        dataset.fetch(shard=0, row_group=0)
    again = stream(dataset, tmp_path / "cache")
    np.testing.assert_array_equal(first, take(again, 26))
    assert not again.skipped


def test_a_missing_bucket_is_one_clear_error(s3_bucket):
    for action in (lambda: Dataset("s3://no-such-bucket-here/faces"), lambda: _write("s3://no-such-bucket-here/faces")):
        with pytest.raises(
            DataError, match=r"s3://no-such-bucket-here/faces: there is no such bucket at http://127"
        ) as caught:
            action()
        assert "\n" not in str(caught.value)


def test_a_missing_data_set_says_what_to_do(s3_bucket):
    with pytest.raises(DataError, match="is no data set: it has no __facscale__/manifest.json"):
        Dataset(f"{s3_bucket}/nothing")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_refused_key_is_one_clear_error_at_once(s3_bucket, monkeypatch, name):
    write_face_data_set(f"{s3_bucket}/faces", [3])
    monkeypatch.setenv(name, "wrong")
    started = time.monotonic()
    for action in (lambda: Dataset(f"{s3_bucket}/faces"), lambda: _write(f"{s3_bucket}/other")):
        with pytest.raises(
            DataError, match="refused the key; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) as caught:
            action()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < storage.OPEN_TIMEOUT_S, "no use in waiting for another answer"


def test_a_store_that_is_not_there_is_one_clear_error(s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "OPEN_TIMEOUT_S", 0.5)
    with pytest.raises(DataError, match=r"cannot be reached.*check that http://127.0.0.1:9 is up") as caught:
        Dataset(f"{s3_bucket}/faces")
    assert "\n" not in str(caught.value)


def test_a_server_that_dies_and_comes_back_only_delays(tmp_path, monkeypatch):
    with S3Server(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        dataset = write_face_data_set(f"{server.make_bucket('faces')}/set", LENGTHS * 4)
        expected = take(stream(write_face_data_set(str(tmp_path / "copy"), LENGTHS * 4), tmp_path / "cache"), 60)
        under_way = stream(dataset, tmp_path / "cache").batches()
        got = [next(under_way).face.images.numpy().copy() for _ in range(2)]
        server.kill()
        back = threading.Thread(target=server.start)
        back.start()
        got += [next(under_way).face.images.numpy().copy() for _ in range(58)]
        back.join()
        under_way.close()
        np.testing.assert_array_equal(expected, got)


def test_closing_does_not_wait_for_a_store_that_is_away(tmp_path, monkeypatch):
    with S3Server(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        dataset = write_face_data_set(f"{server.make_bucket('faces')}/set", LENGTHS * 4)
        under_way = stream(dataset, tmp_path / "cache").batches()
        next(under_way)
        server.kill()
        before = threading.active_count()
        under_way.close()
        assert threading.active_count() < before
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("facscale")]


def test_who_waits_for_a_footer_gives_up_too(tmp_path, monkeypatch):
    with S3Server(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        dataset = write_face_data_set(f"{server.make_bucket('faces')}/set", LENGTHS)
        data = dataset.fetch(shard=0, row_group=0)
        server.kill()
        stop, said = threading.Event(), []

        def wait():
            with pytest.raises(DataError, match="reading was stopped") as caught:
                dataset.decode(data, shard=0, row_group=0, stop=stop)
            said.append(caught)

        waiting = threading.Thread(target=wait)
        waiting.start()
        stop.set()
        waiting.join(60)
        assert said


def test_bytes_that_changed_on_the_server_are_skipped(s3_bucket, s3_server, tmp_path):
    dataset = write_face_data_set(f"{s3_bucket}/faces", LENGTHS)
    shard, table = dataset.manifest.shards[0], dataset.fetch_frame_table(shard=0, row_group=0)
    path = f"{s3_bucket.removeprefix('s3://')}/faces/{shard.file}"
    client = s3_server.filesystem()
    with client.open_input_file(path) as file:
        data = bytearray(file.read())
    data[shard.row_groups[0].offset + int(table.starts[3]) + 50] ^= 1
    with client.open_output_stream(path) as file:
        file.write(bytes(data))
    damaged = stream(dataset, tmp_path / "cache", max_bad=0.5)
    take(damaged, 20)
    assert [(skipped.shard, skipped.row_group, skipped.row) for skipped in damaged.skipped] == [(shard.file, 0, 3)]


def test_clips_are_read_by_themselves_and_kept_in_the_cache(s3_bucket, tmp_path):
    """The second epoch reads from the store only what the first has not; from the third on, hardly anything."""
    dataset = write_face_data_set(f"{s3_bucket}/faces", [60] * 8, size=64, row_group_mb=0.2)
    views = {"clip": FrameSequence(length=9, stride=2, columns=("frame",)), "faces": RandomFrames(count=2)}
    spec = models.Data(epoch={"samples_per": "identity"}, canonical_streams=4, threads=2, cache=str(tmp_path / "c"))
    remote = Stream([dataset], views, spec=spec, batch_size=4, seed=3)
    local = Stream(
        [write_face_data_set(str(tmp_path / "copy"), [60] * 8, size=64, row_group_mb=0.2)],
        views, spec=spec, batch_size=4, seed=3,
    )  # fmt: skip
    ours, theirs = remote.batches(), local.batches()
    read = []
    for _ in range(60):
        batch, expected = next(ours), next(theirs)
        for name in views:
            np.testing.assert_array_equal(batch[name].images, expected[name].images)
        np.testing.assert_array_equal(batch.clip.frame, expected.clip.frame)
        read.append(remote.traffic.read_bytes)
    ours.close()
    theirs.close()
    assert not remote.skipped
    # Several epochs are read ahead here at a time, and request some frames twice.
    assert read[-1] < 2 * sum(shard.bytes for shard in dataset.manifest.shards)
    assert read[-1] - read[30] < read[29] / 4
    assert remote.traffic.cached_bytes > remote.traffic.read_bytes


def _write(url: str) -> None:
    write_tracks(url, [make_track(0, frames=range(3))])


def test_an_interrupted_writer_leaves_no_data_set(s3_bucket):
    def tracks():
        for person in range(6):
            yield make_track(person, frames=range(20))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tracks(f"{s3_bucket}/half", tracks(), row_group_mb=0.01, shard_mb=0.02)
    with pytest.raises(DataError, match="no data set"):
        Dataset(f"{s3_bucket}/half")
    assert write_face_data_set(f"{s3_bucket}/half", [5]).manifest.counts["frames"] == 5


def test_a_file_in_a_bucket_is_replaced_as_a_whole(s3_bucket):
    folder = storage.Folder(f"{s3_bucket}/runs/clp-1")
    for content in (b"first", b"", bytes(12_000_000)):  # also one that pyarrow would cut into parts
        folder.write("method.safetensors", content)
        assert folder.read("method.safetensors") == content
    with pytest.raises(StoreError, match=r"no-such-bucket-here"):
        storage.Folder("s3://no-such-bucket-here/runs").write("method.safetensors", b"first")
