"""Selects the videos of a source that a pipeline reads: by part of the split, by identity, and by number."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from facscale.data import DataError
from facscale.ingest.items import Item, open_root
from facscale.ingest.label_files import decode_text
from facscale.spec.pipelines import Source

WILDCARD = re.compile(r"[*?\[]")
LIST_MARK = "@"  # before the URL of a file with one identity on each line


def select_items(source: Source, items: Sequence[Item]) -> tuple[tuple[Item, ...], list[str]]:
    """Return the selected items, sorted, and notes for the report. Raises DataError if nothing is left.

    `identities`, `videos_per_identity` and `clips_per_video` choose by a hash of the names: the choice does not depend on
    the order of a listing, and a smaller number chooses a part of what a larger one chooses.
    """
    items, notes = unify_spellings(items)
    selected = [item for item in items if not source.parts or item.split in source.parts]
    if not selected:
        splits = sorted({item.split or "none" for item in items})
        raise DataError(
            f"source.parts: no video is in {', '.join(source.parts)}; the parts in this source are: {', '.join(splits)}"
        )
    people = {item.identity for item in selected}
    for key in ("include", "exclude"):
        names = read_names(getattr(source, key))
        chosen, absent = match_people(people, names)
        if absent:
            notes.append(f"source.{key}: not in the source: {len(absent)} of {len(names)} names, such as {absent[0]}")
        if names:
            selected = [item for item in selected if (item.identity in chosen) == (key == "include")]
    if not selected:
        raise DataError(f"source.include and source.exclude leave none of {len({i.identity for i in items})} people")
    if source.identities:
        chosen = set(_choose({item.identity for item in selected}, source.identities))
        selected = [item for item in selected if item.identity in chosen]
    if source.videos_per_identity:
        videos: dict[str, set[str]] = {}
        for item in selected:
            videos.setdefault(item.identity, set()).add(item.video)
        chosen_videos = {
            (person, video)
            for person, names in videos.items()
            for video in _choose(names, source.videos_per_identity, of=person)
        }
        selected = [item for item in selected if (item.identity, item.video) in chosen_videos]
    if source.clips_per_video:
        clips: dict[tuple[str, str], set[str]] = {}
        for item in selected:
            clips.setdefault((item.identity, item.video), set()).add(item.part)
        chosen_clips = {
            (*video, clip)
            for video, names in clips.items()
            for clip in _choose(names, source.clips_per_video, of="/".join(video))
        }
        selected = [item for item in selected if (item.identity, item.video, item.part) in chosen_clips]
    ordered = sorted(selected, key=lambda item: item.sort_key)[: source.limit or None]
    if len(ordered) < len(items):
        notes.append(f"selected: {len(ordered)} of {len(items)} videos of the source")
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


def match_people(people: Collection[str], names: Sequence[str]) -> tuple[set[str], list[str]]:
    """Return (the people that `names`, with or without wildcards, mean; those of the names that mean nobody).

    Names are equal whatever their Unicode form.
    """
    spellings: dict[str, list[str]] = {}
    for person in people:
        spellings.setdefault(unicodedata.normalize("NFC", person), []).append(person)
    chosen: set[str] = set()
    absent = []
    for given in names:
        name = unicodedata.normalize("NFC", given)
        matches = fnmatch.filter(spellings, name) if WILDCARD.search(name) else [name] if name in spellings else []
        chosen.update(person for match in matches for person in spellings[match])
        if not matches:
            absent.append(given)
    return chosen, absent


def unify_spellings(items: Sequence[Item]) -> tuple[Sequence[Item], list[str]]:
    """Give people whose names differ in their Unicode form alone one name, and note it.

    A Mac's zip files write an accent as a character of its own; as two people they could be trained on and tested.
    """
    forms: dict[str, set[str]] = {}
    for identity in {item.identity for item in items}:
        forms.setdefault(unicodedata.normalize("NFC", identity), set()).add(identity)
    double = {name: form for form, names in forms.items() if len(names) > 1 for name in names}
    if not double:
        return items, []
    unified = [replace(item, identity=double.get(item.identity, item.identity)) for item in items]
    example = min(double.values())
    return unified, [f"people with folders in two spellings, joined: {len(set(double.values()))}, such as {example}"]


def _choose(names: Iterable[str], count: int, *, of: str = "") -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{of}/{name}".encode(errors="replace")).digest())[:count]
