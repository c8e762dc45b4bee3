"""`copy_dataset`: an exact copy, also after an interruption, and never one of damaged data."""

from __future__ import annotations

import pytest

from faces import write_face_data_set
from facscale.data import CorruptError, DataError, Dataset
from facscale.data.transfer import copy_dataset
from facscale.data.verification import verify_dataset


@pytest.fixture
def source(tmp_path):
    return write_face_data_set(str(tmp_path / "a"), [12] * 12)


def read_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_is_the_same_byte_for_byte(source, tmp_path):
    assert copy_dataset(source, str(tmp_path / "b")) == len(source.manifest.shards)
    assert read_files(tmp_path / "b") == read_files(tmp_path / "a")


def test_an_interrupted_copy_continues_and_is_no_data_set_until_it_ends(source, tmp_path):
    class InterruptError(Exception):
        pass

    def interrupt():
        raise InterruptError

    with pytest.raises(InterruptError):
        copy_dataset(source, str(tmp_path / "b"), advance=interrupt)
    with pytest.raises(DataError, match="is no data set"):
        Dataset(str(tmp_path / "b"))
    shards = len(source.manifest.shards)
    assert copy_dataset(source, str(tmp_path / "b")) < shards
    assert read_files(tmp_path / "b") == read_files(tmp_path / "a")


def test_a_copy_mends_what_is_damaged_in_the_target(source, tmp_path):
    copy_dataset(source, str(tmp_path / "b"))
    first, second, *_ = source.manifest.shards
    (tmp_path / "b" / first.file).unlink()
    stored = (tmp_path / "b" / second.file).read_bytes()
    (tmp_path / "b" / second.file).write_bytes(stored[:50] + bytes([stored[50] ^ 1]) + stored[51:])
    assert copy_dataset(source, str(tmp_path / "b")) == 2
    assert verify_dataset(Dataset(str(tmp_path / "b"))) == []


def test_a_damaged_source_is_not_copied(source, tmp_path):
    shard = source.manifest.shards[1]
    path = tmp_path / "a" / shard.file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptError, match=f"corrupt shard .*/{shard.file}"):
        copy_dataset(source, str(tmp_path / "b"))
    path.unlink()
    source = Dataset(source.url)
    with pytest.raises(CorruptError, match=f"missing shard .*/{shard.file}"):
        copy_dataset(source, str(tmp_path / "b"))
    assert not (tmp_path / "b" / shard.file).exists()


def test_another_data_set_is_never_overwritten(source, tmp_path):
    other = write_face_data_set(str(tmp_path / "b"), [5], name="other")
    before = read_files(tmp_path / "b")
    with pytest.raises(DataError, match="already holds another data set, other"):
        copy_dataset(source, other.url)
    assert read_files(tmp_path / "b") == before
