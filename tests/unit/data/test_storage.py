"""Files in stores of all kinds, and what the environment says of an object store, which reaches pyarrow's client too."""

from __future__ import annotations

import http.server
import threading

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from facscale.data import s3, storage
from facscale.errors import UserError


@pytest.fixture(autouse=True)
def fresh_clients(monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3._connect.cache_clear()
    yield
    s3._connect.cache_clear()


@pytest.fixture
def proxy():
    """A proxy that answers each request with the list of objects of an empty bucket; the requests that it got."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            requests.append(self.path)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def test_a_store_is_asked_through_the_proxy_of_the_environment(monkeypatch, proxy):
    address, requests = proxy
    monkeypatch.setenv("HTTP_PROXY", address)
    assert "there is no such bucket" in storage.try_access("s3://faces/bp4d")
    assert any("store.invalid:9000" in request for request in requests)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"http_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, ""),  # the endpoint is http
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "store.invalid"}, ""),
    ],
)
def test_the_proxy_is_that_of_the_endpoints_scheme(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert s3.find_proxy() == expected


def test_a_bundle_of_certificates_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(UserError, match=r"AWS_CA_BUNDLE names /nowhere/ca.pem, which is no file"):
        storage.Folder("s3://faces")


class PlainStore(LocalFileSystem):
    """A store with folders that somebody must make, as over SFTP."""

    protocol = "plain"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("plain://"))


def test_a_file_in_a_folder_appears_complete_in_a_store_that_has_folders(tmp_path):
    fsspec.register_implementation("plain", PlainStore, clobber=True)
    folder = storage.Folder(f"plain://{tmp_path}/set")
    for text in (b"first", b"second"):
        folder.write("__facscale__/report.txt", text)
        assert folder.read("__facscale__/report.txt") == text
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["report.txt"]
