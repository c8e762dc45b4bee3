"""VoxCeleb2 (Chung et al., 2018): {dev,test}/mp4/IDENTITY/VIDEO/UTTERANCE.mp4, 25 fps, one speaker in each file.

The utterances of a video become its tracks. There are no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from facscale.ingest.items import VIDEO_SUFFIXES, Files, Item, Labels, get_stem, get_suffix

DEPTH = 5  # dev / mp4 / id00012 / 21Uxsk56VDQ / 00001.mp4


def list_items(files: Files) -> Iterator[Item]:
    """Yield one item per utterance."""
    for name in files:
        parts = name.split("/")
        if len(parts) != DEPTH or parts[0] not in ("dev", "test") or parts[1] != "mp4":
            continue
        if get_suffix(name) in VIDEO_SUFFIXES:
            yield Item(identity=parts[2], video=parts[3], part=f"{parts[0]}/{get_stem(name)}", files=(name,))


def read_labels(item: Item, read: Callable[[str], bytes]) -> tuple[Labels, list[str]]:  # noqa: ARG001
    """Return no labels."""
    return Labels(), []
