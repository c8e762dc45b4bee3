"""Any folder of videos. The identity is the first folder level, or the file's own name if it is in no folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from facscale.ingest.items import VIDEO_SUFFIXES, Files, Item, Labels, get_stem, get_suffix


def list_items(files: Files) -> Iterator[Item]:
    """Yield one item per video file. `anna/monday/a.mp4` is the video `monday/a` of `anna`."""
    for name in files:
        suffix = get_suffix(name)
        if suffix in VIDEO_SUFFIXES:
            identity, slash, rest = name.partition("/")
            video = rest if slash else name
            yield Item(
                identity=identity if slash else get_stem(name),
                video=video[: -len(suffix)],
                part=suffix,  # a.mp4 and a.avi are two recordings
                files=(name,),
            )


def read_labels(item: Item, read: Callable[[str], bytes]) -> tuple[Labels, list[str]]:  # noqa: ARG001
    """Return no labels."""
    return Labels(), []
