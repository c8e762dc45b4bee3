"""Measure how fast a node reads a data set and writes to storage. Runs on nodes that have facscale."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from facscale.data import DataError, Dataset
from facscale.data.storage import Folder, open_fsspec
from facscale.profile import rates

READ_S = 3.0  # duration of a measurement
WRITE_BYTES = 16 << 20


def check_access(url: str) -> None:
    """Raise DataError if the store at `url` refuses us, or does not answer."""
    Folder(url).exists("there-is-no-such-file")


def measure_read_rate(url: str) -> float:
    """Read row groups as training does; return bytes per second. Raises DataError, CorruptError."""
    return rates.measure_read_rate(Dataset(url), seconds=READ_S)


def measure_write_rate(url: str) -> dict[str, float]:
    """Write a file, read it back and delete it; return bytes per second of "write" and "read". Raises DataError."""
    check_access(url)  # explains a refusal better than what follows
    store, folder = open_fsspec(url)
    path, content = f"{folder}/.facscale-doctor-{uuid.uuid4().hex}", os.urandom(WRITE_BYTES)
    step = "written to"
    try:
        store.makedirs(folder, exist_ok=True)
        start = time.monotonic()
        store.pipe_file(path, content)
        write_end = time.monotonic()
        try:
            step = "read back from"
            copy = store.cat_file(path)
            read_end = time.monotonic()
            step = "deleted from"
        finally:
            store.rm_file(path)
    except PermissionError as error:
        raise DataError(
            f"{url}: a file cannot be {step}: {str(error).rstrip('.')}; give this key, or this user, the right to"
        ) from None
    except OSError as error:
        raise DataError(f"{url}: a file cannot be {step}: {error}; see that there is room, and who may write") from None
    if copy != content:
        raise DataError(f"{url}: a file differs from what was written; do not use this store")
    return {"write": WRITE_BYTES / (write_end - start), "read": WRITE_BYTES / (read_end - write_end)}


@contextmanager
def create_probe_file(url: str) -> Iterator[str]:
    """Create a small file at `url`, yield its name and delete it afterwards."""
    store, folder = open_fsspec(url)
    name = f".facscale-doctor-{uuid.uuid4().hex}"
    store.makedirs(folder, exist_ok=True)
    store.pipe_file(f"{folder}/{name}", b"probe")
    try:
        yield name
    finally:
        store.rm_file(f"{folder}/{name}")


def can_see(url: str, name: str) -> bool:
    """Return whether the file `name` exists at `url`, as seen from this node."""
    store, folder = open_fsspec(url)
    return bool(store.exists(f"{folder}/{name}"))
