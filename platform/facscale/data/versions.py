"""Versions of a data set: the first is at its URL, the next ones at URL-v2, URL-v3, ..."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from facscale.data.errors import DatasetNotFoundError
from facscale.data.shards import Dataset


def split_version(url: str) -> tuple[str, int]:
    """Split the URL of a version into that of the first version and its number."""
    base, number = re.fullmatch(r"(.*?)(?:-v(\d+))?", url.rstrip("/"), re.DOTALL).groups()  # type: ignore[union-attr]
    return base, int(number or 1)


def iterate_versions(url: str) -> Iterator[Dataset]:
    """Open the data set at `url` and the versions that follow it, up to the first number without one."""
    base, number = split_version(url)
    for address in itertools.chain([url], (f"{base}-v{later}" for later in itertools.count(number + 1))):
        try:
            yield Dataset(address)
        except DatasetNotFoundError:
            return


def find_next_version(url: str) -> str:
    """Return the first of URL-v2, URL-v3, ... at which there is no data set yet."""
    base, number = split_version(url)
    for version in itertools.count(number + 1):
        try:
            Dataset(f"{base}-v{version}")
        except DatasetNotFoundError:
            return f"{base}-v{version}"
    raise AssertionError
