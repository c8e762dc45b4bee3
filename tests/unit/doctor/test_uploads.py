"""What killed writers leave in a bucket of a real S3 server is seen, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from facscale.doctor import DiagnosticContext
from facscale.doctor.checks import uploads
from facscale.spec import Job

SIZE = 20 << 20
KILLED = """
import os, sys, pyarrow.fs as pafs
store = pafs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], background_writes=False)
stream = store.open_output_stream(sys.argv[1])
stream.write(bytes(int(sys.argv[2])))
os._exit(9)
"""


def examine(url):
    job = Job.model_validate({"method": {"name": "clp"}, "cluster": {"storage": url}})
    return list(uploads.check_uploads(DiagnosticContext(job=job)))


def kill_a_writer(path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path.removeprefix("s3://"), str(SIZE)], env=os.environ, check=False
    )
    assert done.returncode == 9


def test_what_a_killed_writer_left_is_measured(s3_bucket):
    before = datetime.now(UTC) - timedelta(seconds=2)
    kill_a_writer(f"{s3_bucket}/runs/a/checkpoint")
    unfinished = uploads.measure_unfinished(f"{s3_bucket}/runs", min_age=timedelta())
    assert unfinished.count == 1
    assert 0 < unfinished.size <= SIZE
    assert before <= unfinished.oldest <= datetime.now(UTC)
    assert uploads.measure_unfinished(f"{s3_bucket}/elsewhere", min_age=timedelta()) is None


def test_a_young_upload_is_left_in_peace_and_an_old_one_is_a_warning(s3_bucket, monkeypatch):
    kill_a_writer(f"{s3_bucket}/runs/checkpoint")
    (finding,) = examine(f"{s3_bucket}/runs")
    assert finding.severity == "ok"
    monkeypatch.setattr(uploads, "MIN_AGE", timedelta())
    (finding,) = examine(f"{s3_bucket}/runs")
    assert finding.severity == "warning"
    assert "GB that no listing shows" in finding.message
    assert "(1 of them" in finding.message
    assert "AbortIncompleteMultipartUpload" in finding.fix


def test_finished_objects_and_local_folders_are_none(s3_bucket, tmp_path):
    boto3.client("s3").put_object(Bucket=s3_bucket.removeprefix("s3://"), Key="runs/whole", Body=b"x")
    assert uploads.measure_unfinished(s3_bucket, min_age=timedelta()) is None
    assert examine(str(tmp_path)) == []


@pytest.mark.parametrize("what", ["bucket", "server"])
def test_a_store_that_refuses_or_is_away_is_a_problem(s3_bucket, monkeypatch, what):
    if what == "server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (finding,) = examine(s3_bucket if what == "server" else "s3://no-such-bucket/runs")
    assert finding.severity == "problem"
    assert finding.fix


def test_a_key_without_the_right_to_list_is_no_problem(s3_bucket, s3_server):
    bucket = s3_bucket.removeprefix("s3://")
    rule = {"Effect": "Deny", "Principal": "*", "Action": ["s3:ListBucketMultipartUploads"]}
    policy = {"Version": "2012-10-17", "Statement": [{**rule, "Resource": [f"arn:aws:s3:::{bucket}"]}]}
    boto3.client("s3", endpoint_url=s3_server.endpoint).put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    (finding,) = examine(s3_bucket)
    assert finding.severity == "ok"
    assert "may not list" in finding.message
