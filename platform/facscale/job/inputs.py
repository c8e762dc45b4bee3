"""Trained methods that a spec, or a command, names by URL."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from facscale.data.storage import Folder
from facscale.inference import export
from facscale.job.variants import Variant, expand_stages
from facscale.spec import SpecError
from facscale.spec.models import Input


def fetch_inputs(variant: Variant) -> None:
    """Read every file that a variant and its stages depend on. Raises SpecError for one that cannot be read."""
    for dependent in (variant, *expand_stages(variant).values()):
        for source in dependent.job.dependencies.values():
            if source.url:
                fetch_input(source)


@lru_cache(maxsize=8)  # folds and variants ask for the same few
def fetch_input(source: Input) -> bytes:
    """The exported method at a URL. Raises SpecError where it cannot be read or has another checksum than the spec says."""
    data = read_export(source.url)
    sha256 = hashlib.sha256(data).hexdigest()
    if not sha256.startswith(source.sha256):
        raise SpecError(f"{source.url} has the SHA-256 {sha256}, not {source.sha256}: another file than the spec means")
    export.load_export(data, source=source.url)  # an unusable file is reported here, not by each worker
    return data


def has_export(url: str) -> bool:
    """Whether there is a file at a URL. Raises DataError for a store that does not answer."""
    folder, slash, name = url.rpartition("/")
    return Folder(folder or slash or ".").exists(name)


def read_export(url: str) -> bytes:
    """Read the bytes of an exported method. Raises SpecError, and DataError for a store that does not answer."""
    folder, slash, name = url.rpartition("/")
    if Path(url).expanduser().is_dir():
        raise SpecError(f"{url} is a folder; expected a file, such as the method.safetensors of a run")
    try:
        return Folder(folder or slash or ".").read(name)
    except FileNotFoundError:
        raise SpecError(
            f"{url}: there is no such file (you are in {Path.cwd()}); expected one such as the method.safetensors of a run"
        ) from None
