"""Any folder of videos. The identity is the first folder level, or the file's own name if it is in no folder."""

from __future__ import annotations

from collections.abc import Iterator

from facscale.ingest.items import VIDEO_SUFFIXES, Files, Item, get_stem, get_suffix
from facscale.ingest.layouts.base import Layout


class Videos(Layout):
    """Video files, without labels."""

    def list_items(self, files: Files) -> Iterator[Item]:
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
