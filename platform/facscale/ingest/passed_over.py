"""Describes the files of a source that no item reads, so that data in an unexpected folder do not vanish in silence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from facscale.ingest.containers import get_container
from facscale.ingest.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Files, Item, get_suffix

OTHER_MEDIA = frozenset({".avif", ".bmp", ".gif", ".heic", ".mxf", ".rm", ".tif", ".tiff", ".webp", ".y4m"})
MEDIA = VIDEO_SUFFIXES | IMAGE_SUFFIXES | OTHER_MEDIA
MAX_NOTES = 20


def find_passed_over(files: Files, items: Iterable[Item], also_read: Collection[str] = ()) -> tuple[int, list[str]]:
    """Return (number of files that no item reads, notes on videos, images and label files among them).

    `also_read`: names of lists and tables that the layout has read. There is a note per folder at the top and suffix.
    """
    items = list(items)
    labels = {name for item in items for name in item.labels}
    used = {get_container(name) for item in items for name in item.files} | labels | set(also_read)
    rest = [name for name in files if name not in used]
    places = {_get_place(name) for name in labels} | {_get_shape(name) for name in labels}
    groups: dict[tuple[str, str], list[str]] = {}
    for name in rest:
        suffix = get_suffix(name)
        if places & {_get_place(name), _get_shape(name)}:
            groups.setdefault(("label files without a video", ""), []).append(name)
        elif suffix in MEDIA:
            folder = name.partition("/")[0] if "/" in name else ""
            groups.setdefault((f"{suffix} files", folder), []).append(name)
    notes = []
    for (kind, folder), names in sorted(groups.items()):
        where = f" in {folder}/" if folder else ""
        notes.append(f"passed over: {kind}{where}: {len(names)}, such as {min(names)}")
    if len(notes) > MAX_NOTES:
        notes = [*notes[:MAX_NOTES], f"passed over: {len(notes) - MAX_NOTES} more kinds of files"]
    return len(rest), notes


def _get_place(name: str) -> str:
    """Return folder and suffix."""
    return f"{name.rpartition('/')[0]}/*{get_suffix(name)}"


def _get_shape(name: str) -> str:
    """Return the name with all numbers alike: SN001/SN001_au1.txt and SN002/SN002_au12.txt have one shape."""
    return re.sub(r"\d+", "#", name)
