"""Write a small file under storage.runs, read it back and delete it, as training does."""
# ruff: noqa: INP001, T201 - a script that a pod of `helm test` runs

import os
import uuid

import fsspec

folder = os.environ["FACSCALE_RUNS"].rstrip("/")
store, path = fsspec.url_to_fs(f"{folder}/helm-test-{uuid.uuid4().hex}")
content = uuid.uuid4().bytes
store.pipe_file(path, content)
assert store.cat_file(path) == content, f"{path} has other content than was written"
store.rm_file(path)
print(f"{folder}: written, read and deleted")
