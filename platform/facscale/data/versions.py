"""Versions of a data set: the first is at its URL, the next ones at URL-v2, URL-v3, ... Any of them may be deleted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from facscale.data.errors import DatasetNotFoundError
from facscale.data.shards import Dataset
from facscale.data.storage import open_fsspec


def split_version(url: str) -> tuple[str, int]:
    """Split the URL of a version into that of the first version and its number."""
    base, number = re.fullmatch(r"(.*?)(?:-v(\d+))?", url.rstrip("/"), re.DOTALL).groups()  # type: ignore[union-attr]
    return base, int(number or 1)


def list_versions(url: str) -> list[Dataset]:
    """Open the data set at `url`, if there is one, and its later versions, in their order. Raises DataError."""
    base, number = split_version(url)
    later = _list_numbers(base)
    versions = []
    for candidate in itertools.count(number + 1) if later is None else sorted(n for n in later if n > number):
        try:
            versions.append(Dataset(f"{base}-v{candidate}"))
        except DatasetNotFoundError:
            if later is None:
                break
    try:
        return [Dataset(url), *versions]
    except DatasetNotFoundError:
        return versions


def find_next_version(url: str) -> str:
    """Return the URL of the version that follows the last one of the data set at `url`."""
    base, number = split_version(url)
    last = max([number, *(split_version(version.url)[1] for version in list_versions(url))])
    return f"{base}-v{last + 1}"


def _list_numbers(base: str) -> Iterable[int] | None:
    """List the numbers of the folders that are called like a later version; None where the folder above cannot be listed."""
    parent, slash, name = base.rpartition("/")
    if parent.endswith("/"):  # a bucket
        return None
    try:
        system, path = open_fsspec(parent or slash or ".", use_listings_cache=False)
        entries = system.ls(path, detail=False)
    except FileNotFoundError:
        return []
    except (OSError, ImportError, ValueError):
        return None
    names = (str(entry).rstrip("/").rpartition("/")[2] for entry in entries)
    matches = (re.fullmatch(rf"{re.escape(name)}-v(\d+)", folder) for folder in names)
    return [int(match[1]) for match in matches if match]
