"""Keys and addresses of a real S3 server: without a key, with the requester paying, and with keys that are renewed."""

from __future__ import annotations

import logging

import boto3
import pytest

from faces import write_face_data_set
from facscale.data import DataError, Dataset, storage
from facscale.data.storage import Folder
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


def test_a_key_that_is_replaced_in_its_file_is_read_again(faces, s3_server, monkeypatch, tmp_path):
    """As a process does that renews temporary credentials: the old key ends while the folder is open."""
    file, admin = tmp_path / "credentials", s3_server.environment
    iam = boto3.client(
        "iam",
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=admin["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=admin["AWS_SECRET_ACCESS_KEY"],
    )
    bucket = faces.url.removeprefix("s3://").partition("/")[0]
    iam.create_user(UserName="reader")
    iam.put_user_policy(
        UserName="reader",
        PolicyName="read",
        PolicyDocument='{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*"],'
        f'"Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}]}}',
    )

    def renew():
        key = iam.create_access_key(UserName="reader")["AccessKey"]
        file.write_text(
            f"[default]\naws_access_key_id={key['AccessKeyId']}\naws_secret_access_key={key['SecretAccessKey']}\n"
        )
        return key["AccessKeyId"]

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    old = renew()
    folder, name = Folder(faces.url), faces.manifest.shards[0].file
    first = folder.read_range(name, offset=0, length=100)
    new = renew()
    iam.delete_access_key(UserName="reader", AccessKeyId=old)
    assert folder.read_range(name, offset=0, length=100) == first, "the new key was there in time"

    class LateRenewal(logging.Handler):
        def emit(self, record):
            assert "retrying" in record.getMessage()
            renewed.append(renew())

    renewed, handler = [], LateRenewal(level=logging.WARNING)
    monkeypatch.setattr(storage.log, "handlers", [handler])
    iam.delete_access_key(UserName="reader", AccessKeyId=new)
    with folder.open(name) as opened:  # asks for the size, and the refusal of that has no text
        assert opened.read_at(100, 0) == first, "the new key came late"
    assert renewed
    iam.delete_access_key(UserName="reader", AccessKeyId=renewed[-1])
    with pytest.raises(DataError, match="refused the key"):  # one that never worked is an error at once
        Folder(faces.url).read_range(name, offset=0, length=100)
