"""Runs on a host of `tests/hosts.py`: writes the demo's data sets, small, into a bucket, or fetches files from there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import fsspec
import pyarrow.fs

from faces import write_face_data_set

READY_S = 60
PEOPLE = 160  # one clip of each is an epoch
AUS = (1, 2, 12)


def main(what: str, url: str, place: str = "") -> None:
    if what == "make":
        make_bucket(url)
        write_face_data_set(f"{url}/synthetic", [12] * PEOPLE, row_group_mb=0.2, name="synthetic")
        write_face_data_set(f"{url}/synthetic_bp4d", [12] * 6, au=AUS, row_group_mb=0.2, name="synthetic_bp4d")
    else:
        store, pattern = fsspec.core.url_to_fs(url)
        for file in store.glob(pattern):
            store.get_file(file, str(Path(place) / str(file).replace("/", "+")))


def make_bucket(url: str) -> None:
    """Once the store answers."""
    store, name = pyarrow.fs.FileSystem.from_uri(f"{url}?allow_bucket_creation=true")
    end = time.monotonic() + READY_S
    while True:
        try:
            return store.create_dir(name)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
