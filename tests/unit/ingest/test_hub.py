"""A data set on the hub of Hugging Face, against a server with the part of its interface that reading takes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from faces import make_picture

pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")
NAME, REVISION = "lab/faces", "0" * 40
READ = """
import sys
from facscale.ingest.items import list_files, read_bytes
from facscale.ingest.pipeline import list_items
from facscale.spec import Pipeline

root = "hf://datasets/lab/faces"
source = {"layout": "huggingface", "root": root, "identity": "person"}
made = Pipeline.model_validate({"name": "t", "source": source, "detector": {"name": "none"}, "output": "/nowhere"})
for item in list_items(made, list_files(root)).items:
    for file in item.files:
        sys.stdout.buffer.write(f"{item.identity} {item.split} {len(read_bytes(root, file))}\\n".encode())
"""


class Hub(BaseHTTPRequestHandler):
    """Serves `files` as the data set NAME."""

    files: dict[str, bytes]

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"/datasets/{NAME}/resolve/"):
            return self.send_file(path.split("/", 6)[6])
        if "/tree/" in path:
            return self.send_json(self.describe(path.partition("/tree/")[2].partition("/")[2]))
        return self.send_json({"id": NAME, "sha": REVISION, "siblings": [{"rfilename": name} for name in self.files]})

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):  # paths-info
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            names = json.loads(body)["paths"]
        except ValueError:
            names = [unquote(part.partition("=")[2]) for part in body.split("&") if part.startswith("paths=")]
        self.send_json([entry for entry in self.describe("") if entry["path"] in names])

    def describe(self, below):
        folders = {name.rpartition("/")[0] for name in self.files} - {""}
        entries = [{"type": "directory", "path": folder, "oid": "f", "size": 0} for folder in sorted(folders)]
        entries += [
            {"type": "file", "path": name, "oid": "e", "size": len(content)} for name, content in self.files.items()
        ]
        return [entry for entry in entries if entry["path"].startswith(below)]

    def send_json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, name):
        content, total = self.files[name], len(self.files[name])
        headers = {"X-Repo-Commit": REVISION, "ETag": '"e"', "Accept-Ranges": "bytes"}
        if requested := self.headers.get("Range"):
            first, _, last = requested.removeprefix("bytes=").partition("-")
            end = min(int(last) if last else total - 1, total - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{total}"
            return self.send(206, content[int(first) : end + 1], headers)
        return self.send(200, content, headers)

    def send(self, status, content, headers):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_a_data_set_of_the_hub_is_listed_and_its_images_are_read():
    images = [simplejpeg.encode_jpeg(make_picture(n, size=32)) for n in range(6)]
    table = pa.table({"image": [{"bytes": image, "path": None} for image in images], "person": list("aabbcc")})
    Hub.files = {"README.md": b"# faces"}
    for name, rows in (
        ("data/train-00000-of-00001.parquet", slice(0, 4)),
        ("data/test-00000-of-00001.parquet", slice(4, 6)),
    ):
        with io.BytesIO() as file:
            pq.write_table(table.slice(rows.start, rows.stop - rows.start), file, row_group_size=2)
            Hub.files[name] = file.getvalue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # In a process of its own: huggingface_hub reads its variables when it is imported.
        variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", READ], env=os.environ | variables, capture_output=True, text=True, check=False
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    parts = ["train"] * 4 + ["test"] * 2
    assert done.stdout.splitlines() == [
        f"{person} {part} {len(image)}" for person, part, image in zip("aabbcc", parts, images, strict=True)
    ]
