"""Trained methods that a spec names by URL."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import fsspec

from facscale.methods import export
from facscale.spec import SpecError
from facscale.spec.models import Input


@lru_cache(maxsize=8)  # folds and rows ask for the same few
def fetch(source: Input) -> bytes:
    """The exported method at a URL. Raises SpecError where it cannot be read or is not the one that the spec means."""
    try:
        with fsspec.open(source.url) as file:
            data = bytes(file.read())
    except (OSError, ValueError) as error:
        raise SpecError(f"{source.url}: cannot be read: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(source.sha256):
        raise SpecError(f"{source.url} has the SHA-256 {found}, not {source.sha256}: another file than the spec means")
    export.load(data, source=source.url)  # what is wrong with it is said here, not by each worker
    return data
