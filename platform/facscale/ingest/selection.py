"""Selects the videos of a source that a pipeline reads: by part of the split, by identity, and by number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from facscale.data import DataError
from facscale.ingest.items import Item, open_root
from facscale.ingest.label_files import decode_text
from facscale.spec.pipelines import Source

LIST_MARK = "@"  # before the URL of a file with one identity on each line


def select_items(source: Source, items: Sequence[Item]) -> tuple[tuple[Item, ...], list[str]]:
    """Return the selected items, sorted, and notes for the report. Raises DataError if nothing is left.

    `identities` and `videos_per_identity` choose by a hash of the names: the choice does not depend on the order of a
    listing, and a smaller number chooses a part of what a larger one chooses.
    """
    notes: list[str] = []
    selected = [item for item in items if not source.parts or item.split in source.parts]
    if not selected:
        splits = sorted({item.split or "none" for item in items})
        raise DataError(
            f"source.parts: no video is in {', '.join(source.parts)}; the parts in this source are: {', '.join(splits)}"
        )
    include, exclude = read_names(source.include), read_names(source.exclude)
    for key, names in (("include", include), ("exclude", exclude)):
        people = {item.identity for item in selected}
        absent = [name for name in names if not any(fnmatchcase(person, name) for person in people)]
        if absent:
            notes.append(f"source.{key} names {len(absent)} people who are not in the source, such as {absent[0]}")
    if include:
        selected = [item for item in selected if matches(item.identity, include)]
    selected = [item for item in selected if not matches(item.identity, exclude)]
    if not selected:
        raise DataError(f"source.include and source.exclude leave none of {len({i.identity for i in items})} people")
    if source.identities:
        people = set(_choose({item.identity for item in selected}, source.identities))
        selected = [item for item in selected if item.identity in people]
    if source.videos_per_identity:
        videos: dict[str, set[str]] = {}
        for item in selected:
            videos.setdefault(item.identity, set()).add(item.video)
        chosen = {
            (person, video)
            for person, names in videos.items()
            for video in _choose(names, source.videos_per_identity, of=person)
        }
        selected = [item for item in selected if (item.identity, item.video) in chosen]
    ordered = sorted(selected, key=lambda item: item.sort_key)[: source.limit or None]
    if len(ordered) < len(items):
        notes.append(f"{len(ordered)} of {len(items)} videos of the source are selected")
    return tuple(ordered), notes


def read_names(entries: Iterable[str]) -> tuple[str, ...]:
    """Return the identities, or patterns such as id100*, of a list; `@URL` stands for the lines of a file."""
    names: list[str] = []
    for entry in entries:
        if not entry.startswith(LIST_MARK):
            names.append(entry)
            continue
        url = entry.removeprefix(LIST_MARK)
        try:
            system, path = open_root(url)
            text = decode_text(system.cat_file(path), url)
        except (OSError, ValueError) as error:
            raise DataError(f"{url}: the list of identities cannot be read: {error}") from None
        names += [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(names)


def matches(identity: str, names: Iterable[str]) -> bool:
    """Return whether an identity is one of the names or patterns."""
    return any(fnmatchcase(identity, name) for name in names)


def _choose(names: Iterable[str], count: int, *, of: str = "") -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{of}/{name}".encode(errors="replace")).digest())[:count]
