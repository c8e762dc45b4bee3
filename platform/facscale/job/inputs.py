"""Trained methods that a spec, or a command, names by URL."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from facscale.data.storage import Folder
from facscale.inference import export
from facscale.spec import SpecError
from facscale.spec.models import Input


@lru_cache(maxsize=8)  # folds and rows ask for the same few
def fetch(source: Input) -> bytes:
    """The exported method at a URL. Raises SpecError where it cannot be read or is not the one that the spec means."""
    data = read(source.url)
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(source.sha256):
        raise SpecError(f"{source.url} has the SHA-256 {found}, not {source.sha256}: another file than the spec means")
    export.load(data, source=source.url)  # what is wrong with it is said here, not by each worker
    return data


def read(url: str) -> bytes:
    """The bytes of an exported method. Raises SpecError, and DataError for a store that does not answer."""
    folder, slash, name = url.rpartition("/")
    if Path(url).expanduser().is_dir():
        raise SpecError(f"{url} is a folder; a file is wanted, such as the method.safetensors of a run")
    try:
        return Folder(folder or slash or ".").read(name)
    except FileNotFoundError:
        raise SpecError(
            f"{url}: there is no such file (you are in {Path.cwd()}); wanted is one such as the method.safetensors of a run"
        ) from None
