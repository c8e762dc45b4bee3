"""Storage of a real S3 server, with all that can be wrong with it, as a node would find it."""

from __future__ import annotations

import email.utils
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import boto3
import pyarrow.fs as pafs
import pytest

from faces import write_face_data_set
from facscale.data import DataError
from facscale.doctor import DiagnosticContext, storage_probe
from facscale.doctor.checks import clocks
from facscale.doctor.checks.storage import check_data, check_data_store
from facscale.spec import Job


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(storage_probe, "READ_S", 0.2)
    monkeypatch.setattr(storage_probe, "WRITE_BYTES", 1 << 20)
    monkeypatch.setattr("facscale.data.storage.OPEN_TIMEOUT_S", 0.5)


def forbid_writing(server, bucket):
    """Nobody may put an object there any more; all may still read."""
    rule = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    boto3.client("s3", endpoint_url=server.endpoint).put_bucket_policy(Bucket=bucket, Policy=policy)


def job_on(url):
    return Job.model_validate({"method": {"name": "clp"}, "data": {"unlabelled": url}})


def states(found):
    return [(one.severity, one.message) for one in found]


@pytest.mark.usefixtures("brief")
class TestReading:
    def test_a_data_set_is_described_and_its_speed_measured(self, s3_bucket):
        write_face_data_set(f"{s3_bucket}/faces", [12] * 8)
        ((state, said),) = states(check_data(DiagnosticContext(job=job_on(f"{s3_bucket}/faces"))))
        assert state == "ok"
        assert "test, 96 frames" in said
        assert storage_probe.measure_read_rate(f"{s3_bucket}/faces") > 0

    def test_a_missing_data_set_and_a_missing_bucket_are_told_apart(self, s3_bucket):
        (folder,) = check_data(DiagnosticContext(job=job_on(f"{s3_bucket}/nothing")))
        (bucket,) = check_data(DiagnosticContext(job=job_on("s3://no-such-bucket/faces")))
        assert (folder.severity, bucket.severity) == ("problem", "problem")
        assert "is no data set" in folder.message
        assert "there is no such bucket" in bucket.message
        assert folder.fix
        assert bucket.fix

    def test_a_wrong_key(self, s3_bucket, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
        (one,) = check_data(DiagnosticContext(job=job_on(f"{s3_bucket}/faces")))
        assert one.severity == "problem"
        assert "refused the key" in one.message
        assert "AWS_ACCESS_KEY_ID" in one.fix

    def test_a_server_that_is_down(self, s3_bucket, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        (one,) = check_data(DiagnosticContext(job=job_on(f"{s3_bucket}/faces")))
        assert one.severity == "problem"
        assert "cannot be reached" in one.message

    def test_without_a_spec_the_place_of_all_data_is_asked(self, s3_bucket, monkeypatch):
        monkeypatch.setenv("FACSCALE_DATA", s3_bucket)
        assert [one.severity for one in check_data(DiagnosticContext())] == ["ok"]
        assert check_data_store("s3://no-such-bucket").severity == "problem"


@pytest.mark.usefixtures("brief")
class TestWriting:
    def test_nothing_is_left(self, s3_bucket, s3_server, tmp_path):
        for place in (f"{s3_bucket}/runs", str(tmp_path / "runs")):
            rates = storage_probe.measure_write_rate(place)
            assert rates["write"] > 0
            assert rates["read"] > 0
        assert list((tmp_path / "runs").iterdir()) == []
        everything = pafs.FileSelector(s3_bucket.removeprefix("s3://"), recursive=True)
        assert [one.path for one in s3_server.filesystem().get_file_info(everything) if one.is_file] == []

    def test_a_key_that_may_only_read(self, s3_bucket, s3_server):
        forbid_writing(s3_server, s3_bucket.removeprefix("s3://"))
        with pytest.raises(DataError, match="a file cannot be written to.*the right to"):
            storage_probe.measure_write_rate(f"{s3_bucket}/runs")

    def test_a_bucket_that_is_not_there(self, s3_bucket):
        with pytest.raises(DataError, match="there is no such bucket"):
            storage_probe.measure_write_rate("s3://no-such-bucket/runs")

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="cannot be written to"):
            storage_probe.measure_write_rate(str(tmp_path / "file" / "runs"))

    def test_a_note_is_seen_where_the_place_is_the_same(self, tmp_path):
        with storage_probe.create_probe_file(str(tmp_path / "a")) as name:
            assert storage_probe.can_see(str(tmp_path / "a"), name)
            assert not storage_probe.can_see(str(tmp_path / "b"), name)
        assert not storage_probe.can_see(str(tmp_path / "a"), name)


@pytest.fixture
def telling():
    """A function: the address of a server whose clock is off by so many seconds; None: it names no time."""
    servers = []

    def serve(off):
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response_only(403)
                if off is not None:
                    self.send_header("Date", email.utils.formatdate(time.time() + off, usegmt=True))
                self.end_headers()

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("off", "state"), [(0, ["ok"]), (30, ["warning"]), (-3600, ["problem"]), (None, [])])
def test_a_servers_clock_is_read_from_its_refusal_too(telling, monkeypatch, off, state):
    monkeypatch.setenv("AWS_ENDPOINT_URL", telling(off))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert [one.severity for one in clocks.check_server_clocks(DiagnosticContext())] == state


def test_who_does_not_answer_tells_no_time(s3_server):
    with socket.create_server(("127.0.0.1", 0)) as free:
        silent = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert clocks.measure_skew(silent) is None
    assert clocks.measure_skew(s3_server.endpoint) < 2
