"""What training does with storage, once and small: write, read back, delete, under storage.runs."""
# ruff: noqa: INP001, T201 - a pod of `helm test` runs it as it stands

import os
import uuid

import fsspec

folder = os.environ["FACSCALE_RUNS"].rstrip("/")
files, path = fsspec.url_to_fs(f"{folder}/helm-test-{uuid.uuid4().hex}")
words = uuid.uuid4().bytes
files.pipe_file(path, words)
assert files.cat_file(path) == words, f"{path} reads otherwise than it was written"
files.rm_file(path)
print(f"{folder}: written, read and deleted")
