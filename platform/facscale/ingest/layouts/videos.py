"""Any folder of videos. The identity is the first folder level, or the file's own name where there is no folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from facscale.ingest.items import VIDEO_SUFFIXES, Files, Item, Labels, stem, suffix


def items(files: Files) -> Iterator[Item]:
    """One item a video file. `anna/monday/a.mp4` is the video `monday/a` of `anna`."""
    for name in files:
        if suffix(name) in VIDEO_SUFFIXES:
            identity, slash, rest = name.partition("/")
            video = rest if slash else name
            yield Item(
                identity=identity if slash else stem(name),
                video=video[: -len(suffix(name))],
                part=suffix(name),  # a.mp4 and a.avi are two recordings, not one
                files=(name,),
            )


def labels(item: Item, read: Callable[[str], bytes]) -> tuple[Labels, list[str]]:  # noqa: ARG001
    """None."""
    return Labels(), []
