"""Keys and addresses of a real S3 server: without a key, with the requester paying, and with keys that are renewed."""

from __future__ import annotations

import pytest

from faces import write_face_data_set
from facscale.data import DataError, Dataset
from facscale.data.transfer import copy_dataset
from facscale.data.verification import verify_dataset

pytestmark = pytest.mark.slow("an S3 server")


@pytest.fixture
def faces(s3_bucket):
    return write_face_data_set(f"{s3_bucket}/faces", [12] * 9)


def test_the_requester_may_pay(faces, monkeypatch):
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    dataset = Dataset(faces.url)
    assert dataset.folder._filesystem.type_name == "py::fsspec+('s3', 's3a')"
    assert verify_dataset(dataset) == []


def test_a_key_is_not_sent_where_none_is_wanted(faces, monkeypatch):
    """This server knows no public buckets, so it refuses, and the error says that no key was sent."""
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    with pytest.raises(DataError, match="asked without a key: AWS_NO_SIGN_REQUEST is set"):
        Dataset(faces.url)


def test_shards_that_are_cut_off_or_gone_in_a_store_are_found_at_once(faces, s3_server):
    client, folder = s3_server.filesystem(), faces.url.removeprefix("s3://")
    first, second, *_ = faces.manifest.shards
    client.delete_file(f"{folder}/{first.file}")
    with client.open_input_file(f"{folder}/{second.file}") as file:
        content = file.read()
    with client.open_output_stream(f"{folder}/{second.file}") as file:
        file.write(content[: len(content) // 2])
    texts = [str(fault) for fault in verify_dataset(Dataset(faces.url))]
    assert [text.split(":")[0] for text in texts] == [first.file, second.file]
    assert "is truncated" in texts[1]


def test_copies_go_both_ways(faces, s3_bucket, tmp_path):
    copy_dataset(faces, str(tmp_path / "here"))
    assert copy_dataset(Dataset(str(tmp_path / "here")), f"{s3_bucket}/back") == len(faces.manifest.shards)
    assert copy_dataset(faces, f"{s3_bucket}/back") == 0
    assert verify_dataset(Dataset(f"{s3_bucket}/back")) == []
