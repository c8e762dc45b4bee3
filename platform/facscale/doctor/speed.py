"""What a node reads from a data set and writes to storage. Runs on nodes that have facscale."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec

from facscale.data import DataError, Dataset
from facscale.data.storage import Folder
from facscale.profile.rates import read_rate

READ_S = 3.0  # how long reading goes on
WRITTEN = 16 << 20  # bytes


def answers(url: str) -> None:
    """Raises DataError where the store at `url` refuses us, or stays away."""
    Folder(url).exists("there-is-no-such-file")


def read(url: str) -> float:
    """Bytes a second of row groups read as training reads them. Raises DataError, CorruptError."""
    return read_rate(Dataset(url), seconds=READ_S)


def write(place: str) -> dict[str, float]:
    """Write a file, read it back, delete it: bytes a second of both. Raises DataError."""
    answers(place)  # it knows why a store refuses better than what follows
    store, folder = fsspec.core.url_to_fs(place)
    path, given = f"{folder}/.facscale-doctor-{uuid.uuid4().hex}", os.urandom(WRITTEN)
    doing = "written to"
    try:
        store.makedirs(folder, exist_ok=True)
        began = time.monotonic()
        store.pipe_file(path, given)
        written = time.monotonic()
        try:
            doing = "read back from"
            back = store.cat_file(path)
            taken = time.monotonic()
        finally:
            doing = doing if doing == "read back from" else "deleted from"
            store.rm_file(path)
    except PermissionError as error:
        raise DataError(
            f"{place}: a file cannot be {doing}: {str(error).rstrip('.')}; give this key, or this user, the right to"
        ) from None
    except OSError as error:
        raise DataError(
            f"{place}: a file cannot be {doing}: {error}; see that there is room, and who may write"
        ) from None
    if back != given:
        raise DataError(f"{place}: a file comes back other than it was written; do not use this store")
    return {"write": WRITTEN / (written - began), "read": WRITTEN / (taken - written)}


@contextmanager
def note(place: str) -> Iterator[str]:
    """The name of a small file that lies in `place` for as long."""
    store, folder = fsspec.core.url_to_fs(place)
    name = f".facscale-doctor-{uuid.uuid4().hex}"
    store.makedirs(folder, exist_ok=True)
    store.pipe_file(f"{folder}/{name}", b"seen?")
    try:
        yield name
    finally:
        store.rm_file(f"{folder}/{name}")


def sees(place: str, name: str) -> bool:
    """Whether that file is there from here."""
    store, folder = fsspec.core.url_to_fs(place)
    return bool(store.exists(f"{folder}/{name}"))
